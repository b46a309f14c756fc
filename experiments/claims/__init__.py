"""What is said of training, each sentence an experiment on real nets with a measured verdict.

A claim is a module with `TITLE`, a frozen dataclass `Config`, its instances `FULL` and `QUICK`, and
`examine(config, keys) -> Outcome`, which runs all seeds in one `vmap`.
"""
