"""The read API: returns the items that belong to a verified token, from one Lambda that starts fast."""
