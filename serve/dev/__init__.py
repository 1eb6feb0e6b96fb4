"""What a developer of a consumer or an operator runs on a laptop; never part of the deployed bundle."""
