# The stack of a release (`./larder release`) as one resource: CloudFormation creates it, Terraform owns its parameters.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.0" }
  }
}

locals {
  manifest = jsondecode(file("${var.release}/release.json"))
  template = local.manifest.templates[var.variant]
  zips     = toset(values(local.manifest.functions))
  # A change of this value publishes new versions of serve and score: their aliases move only to a new version.
  digest = sha256(jsonencode([local.manifest.files[local.template], var.parameters]))
}

resource "aws_s3_object" "bundle" {
  for_each = local.zips # named by a digest of their content, so that an older deployment keeps its bundles
  bucket   = var.bucket
  key      = "${var.prefix}${each.key}"
  source   = "${var.release}/${each.key}"
  lifecycle { create_before_destroy = true } # CloudFormation needs the old one until its update or rollback has ended
}

resource "aws_s3_object" "template" {
  bucket = var.bucket
  key    = "${var.prefix}${local.manifest.files[local.template]}.template.json"
  source = "${var.release}/${local.template}"
  lifecycle { create_before_destroy = true }
}

resource "aws_cloudformation_stack" "larder" {
  name         = var.name
  template_url = "${var.s3_url}/${var.bucket}/${aws_s3_object.template.key}" # too large for template_body
  capabilities = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"]
  depends_on   = [aws_s3_object.bundle]
  parameters = merge(var.parameters, {
    ArtifactsBucket = var.bucket
    ArtifactsPrefix = var.prefix
    ServeDigest     = local.digest
    ScoreDigest     = local.digest
  })
}
