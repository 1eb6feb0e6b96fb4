"""Write a dataset's file from a sample of a model's output."""
