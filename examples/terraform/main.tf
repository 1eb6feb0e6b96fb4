# One environment of infra/environments.yaml, deployed with Terraform instead of SAM.
variable "environment" {
  type = string
}

variable "release" {
  type        = string
  default     = "../../.larder/release"
  description = "folder that `./larder release` wrote"
}

variable "bucket" {
  type        = string
  description = "bucket in the environment's region, for the bundles and the template"
}

locals {
  environment = jsondecode(file("${var.release}/release.json")).environments[var.environment]
}

provider "aws" {
  region = local.environment.region
}

module "larder" {
  source     = "./larder"
  name       = local.environment.stack
  release    = var.release
  variant    = local.environment.variant
  bucket     = var.bucket
  parameters = local.environment.parameters
  s3_url     = "https://s3.${local.environment.region}.amazonaws.com"
}

output "base_url" {
  value = module.larder.outputs["BaseUrl"]
}
