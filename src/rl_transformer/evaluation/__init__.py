"""Score a policy in live environments, record episodes, and draw figures."""
