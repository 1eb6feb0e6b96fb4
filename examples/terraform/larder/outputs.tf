output "outputs" {
  description = "outputs of the stack: ApiId, BaseUrl, TableName and the others of infra/template.yaml"
  value       = aws_cloudformation_stack.larder.outputs
}
