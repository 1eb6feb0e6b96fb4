"""Write items to DynamoDB as fast as it accepts them."""
