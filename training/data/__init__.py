"""Training data: questions of many sources made into records that hold a verified focus trace.

    config = BuildConfig(sources=(SourceConfig(kind="world", path=Path("world/train")),))
    build(config, Path("data/world"))
    for record in read_records(Path("data/world")): ...

Modules: `sources` and `readers` (where questions come from), `intake` (whether image and boxes can be used),
`expansion` (from the answer's boxes to the way of a trace), `teacher` and `offline` (who writes the texts), `verify`
(whether they are taken), `records` and `tables` (what is kept), `shards` and `files` (so that nothing finished is
lost), `make`, `runner` and `build` (all of it in turn), `load` (for TRL), `check` and `audit`, `stats`, `show`,
`sif50k` (the published JSON, in and out).
"""
