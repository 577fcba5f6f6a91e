"""Judge a policy from logged episodes alone: estimates of its value, and a verdict that may be "not established"."""
