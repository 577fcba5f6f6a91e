"""Models of a log: the value of actions under a judged policy, and the probability of actions under the behavior."""
