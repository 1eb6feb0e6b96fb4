variable "name" {
  type        = string
  description = "name of the stack, e.g. larder-prod"
}

variable "release" {
  type        = string
  description = "folder that `./larder release` wrote"
}

variable "variant" {
  type        = string
  default     = ""
  description = "variant of the template: empty, canary, api-keys or canary-api-keys"
}

variable "bucket" {
  type        = string
  description = "bucket in the stack's region, for the bundles and the template"
}

variable "prefix" {
  type        = string
  default     = "larder/"
  description = "prefix of the object keys; it ends with a slash, or is empty"
}

variable "parameters" {
  type        = map(string)
  default     = {}
  description = "parameters of infra/template.yaml; release.json has those of each environment"
}

variable "s3_url" {
  type        = string
  default     = "https://s3.amazonaws.com"
  description = "URL of S3 in the stack's region, e.g. https://s3.eu-central-1.amazonaws.com"
}
