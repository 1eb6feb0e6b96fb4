// One environment of infra/environments.yaml, in a CDK app instead of SAM: `cdk deploy -c release=DIR -c environment=prod`.
const { createHash } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { App, Stack } = require("aws-cdk-lib");
const { Asset } = require("aws-cdk-lib/aws-s3-assets");
const { CfnInclude } = require("aws-cdk-lib/cloudformation-include");

const app = new App();
const folder = app.node.tryGetContext("release") ?? "../../.larder/release"; // of `./larder release`
const release = JSON.parse(readFileSync(`${folder}/release.json`));
const environment = release.environments[app.node.getContext("environment")];
const template = release.templates[environment.variant];
const stack = new Stack(app, environment.stack, { env: { region: environment.region } });

// A change of this value publishes new versions of serve and score: their aliases move only to a new version.
const deployed = JSON.stringify([release.files[template], environment.parameters]);
const digest = createHash("sha256").update(deployed).digest("hex");
const bucket = { ArtifactsBucket: "unused", ArtifactsPrefix: "" }; // the bundles are assets of the app
const parameters = { ...environment.parameters, ...bucket, ServeDigest: digest, ScoreDigest: digest };
const larder = new CfnInclude(stack, "Larder", { templateFile: `${folder}/${template}`, parameters });
for (const [name, file] of Object.entries(release.functions)) {
  const asset = new Asset(stack, `${name}Bundle`, { path: `${folder}/${file}` });
  larder.getResource(name).code = { s3Bucket: asset.s3BucketName, s3Key: asset.s3ObjectKey };
}
app.synth();
