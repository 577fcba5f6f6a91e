"""The kinds of policies that are claimed to act alike: options of `untrained_policy` by name."""

KINDS = {
    "published": {},
    "added": {"model": {"condition_entry": "added"}},
    "delayed": {"returns": {"update": "keep"}},
    "clipped": {"returns": {"reward_clip": 0.4}},
    "cloning": {"model": {"conditions": []}},
    "mlp": {"model": {"arch": "behavior_cloning"}},
    "sliding window": {"model": {"attention": "sliding_window"}},
    "sliding window added": {"model": {"attention": "sliding_window", "condition_entry": "added"}},
    "gaussian sample": {"model": {"action_head": "gaussian"}, "policy": {"action_selection": "sample"}},
}
