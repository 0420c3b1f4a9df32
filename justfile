# The recipes of a lab, the same in every lab. Each calls `lab` in the lab's environment (./just makes it on first use),
# from the folder you stand in: a worktree's recipe concerns that worktree's idea.

set positional-arguments

lab := quote(justfile_directory() / "just") + " --in-env lab"

[private, no-cd]
default:
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} --list --unsorted

# Find, fetch and read papers: search "QUERY" | fetch ID | list | tldr | introduction | results | references ID | bib
[group('think'), no-cd]
papers *args:
    @exec {{ lab }} papers "$@"

# Write, check, criticise and rate ideas; what was tried near one: new | list | show | check | near TEXT | critique | rate | revived
[group('think'), no-cd]
idea *args:
    @exec {{ lab }} idea "$@"

# What papers say that fits a run or a symptom, with the source of every line: for RUN | "SYMPTOM", read PAPER, check
[group('think'), no-cd]
cognition *args:
    @exec {{ lab }} cognition "$@"

# Hold an argument map to itself and to the saved papers: check FILE
[group('think'), no-cd]
argmap *args:
    @exec {{ lab }} argmap "$@"

# Fence what comes on stdin as data, for another agent to read: ["LABEL"]
[group('think'), no-cd]
fence *args:
    @exec {{ lab }} fence "$@"

# Try this worktree's code in under a minute: shapes, causality, a few steps
[group('experiment'), no-cd]
smoke *args:
    @exec {{ lab }} smoke "$@"

# Pack what failed last in an idea's code, for a repair: SLUG
[group('experiment'), no-cd]
debug *args:
    @exec {{ lab }} debug "$@"

# Train and score one run, now: [SLUG] [--seed N] [--stage S] [--label L] [--field value]
[group('experiment'), no-cd]
eval *args:
    @exec {{ lab }} eval "$@"

# Run main's own train.py over several seeds; this measures the noise floor: [--seeds 3]
[group('experiment'), no-cd]
baseline *args:
    @exec {{ lab }} baseline "$@"

# Make the worktree and branch of an idea: SLUG
[group('experiment'), no-cd]
worktree *args:
    @exec {{ lab }} worktree "$@"

# Snapshot a worktree and queue its first run: SLUG ["Q: .. H: .."] [--seeds 1] [--stage explore]
[group('experiment'), no-cd]
queue *args:
    @exec {{ lab }} queue "$@"

# Queue the paired seeds that the next look at an idea needs: SLUG [--stage explore]
[group('experiment'), no-cd]
replicate *args:
    @exec {{ lab }} replicate "$@"

# Run a request again that ended for no reason of the candidate's (interrupted, contaminated, no device): RUN
[group('experiment'), no-cd]
retry *args:
    @exec {{ lab }} retry "$@"

# What to build on next, with all an author needs for it: [--policy NAME] [--json]
[group('experiment'), no-cd]
next *args:
    @exec {{ lab }} next "$@"

# Let the embedded searcher make and queue experiments from space.py, without any model: [--n 10] [--policy NAME]
[group('experiment'), no-cd]
search *args:
    @exec {{ lab }} search "$@"

# Queue settings that Optuna proposes within train.py's RANGES, after all ideas: [CODE] [--n 1] [--show]
[group('experiment'), no-cd]
tune *args:
    @exec {{ lab }} tune "$@"

# Let an agent's command run the loop by itself, a short process a step: [--agent claude] [--hours 8] [--experiments N] [--filler] [--show]
[group('experiment'), no-cd]
autopilot *args:
    @exec {{ lab }} autopilot "$@"

# Measure what was kept at explore again, longer and larger, on fresh seeds: [SLUG ...] [--list-only]
[group('experiment'), no-cd]
promote *args:
    @exec {{ lab }} promote "$@"

# Test the lab on itself: the baseline as if it were an idea, and patches known to harm: [--rounds 1]
[group('experiment'), no-cd]
controls *args:
    @exec {{ lab }} controls "$@"

# Measure what program.md asks of the metric, and say how many seeds and how long a run it takes
[group('experiment'), no-cd]
metric-check *args:
    @exec {{ lab }} metric-check "$@"

# One screen: the device, what runs, what waits, last verdicts, best, noise floor
[group('watch'), no-cd]
status *args:
    @exec {{ lab }} status "$@"

# Print the log of a run: RUN
[group('watch'), no-cd]
log *args:
    @exec {{ lab }} log "$@"

# Follow a run as it goes: [RUN]
[group('watch'), no-cd]
follow *args:
    @exec {{ lab }} follow "$@"

# The table of all runs
[group('watch'), no-cd]
results *args:
    @exec {{ lab }} results "$@"

# Explain the verdict on an idea, and what would settle it: SLUG
[group('watch'), no-cd]
verdict *args:
    @exec {{ lab }} verdict "$@"

# Score what was predicted against what came out: [--agent NAME] [--out PNG]
[group('watch'), no-cd]
calibration *args:
    @exec {{ lab }} calibration "$@"

# An idea against what was expected and against its relatives: SLUG; with --metric NAME [--seeds 0 2], another metric, marked as exploratory
[group('watch'), no-cd]
analyse *args:
    @exec {{ lab }} analyse "$@"

# The best result so far and its lineage
[group('watch'), no-cd]
best *args:
    @exec {{ lab }} best "$@"

# Tell a person what happens here, as .alerts.yaml says: test | list | ask "TEXT" | check
[group('watch'), no-cd]
alert *args:
    @exec {{ lab }} alert "$@"

# Draw the effects against the noise band
[group('watch'), no-cd]
plot *args:
    @exec {{ lab }} plot "$@"

# Everything that was tried, as a tree: tree [--html FILE] [--png FILE] | show NAME | diff A B
[group('watch'), no-cd]
lineage *args:
    @exec {{ lab }} lineage "$@"

# What the whole search amounts to: [--out PNG] [--tree NAME]
[group('watch'), no-cd]
analysis *args:
    @exec {{ lab }} analysis "$@"

# End a run, or take it out of the queue: RUN
[group('steer'), no-cd]
cancel *args:
    @exec {{ lab }} cancel "$@"

# The code a run tried, against its parent: RUN
[group('steer'), no-cd]
diff *args:
    @exec {{ lab }} diff "$@"

# Write an idea's report from the template, facts filled in: SLUG
[group('steer'), no-cd]
report *args:
    @exec {{ lab }} report "$@"

# Commit, push and open a pull request for an idea that was supported and kept: SLUG [--no-push]
[group('steer'), no-cd]
submit *args:
    @exec {{ lab }} submit "$@"

# Make a new lab for a problem of your own: DIR [--example digits]
[group('lab'), no-cd]
init *args:
    @exec {{ lab }} init "$@"

# Check this lab's files, and list what is still to be filled in
[group('lab'), no-cd]
check *args:
    @exec {{ lab }} check "$@"

# Bring records, queue and git back into agreement after a kill, a reboot, a deleted file; names what it cannot repair
[group('lab'), no-cd]
doctor *args:
    @exec {{ lab }} doctor "$@"

# Prepare the data and record its hash
[group('lab'), no-cd]
data *args:
    @exec {{ lab }} data "$@"

# Look at the sealed split, which wears out: SLUG | baseline [--stage explore]
[group('lab'), no-cd]
verify *args:
    @exec {{ lab }} verify "$@"

# Re-derive a run from its receipt and score its checkpoint again: RUN | --all [--sample N]
[group('lab'), no-cd]
audit *args:
    @exec {{ lab }} audit "$@"

# Train a run again, and say whether its number comes out again: RUN
[group('lab'), no-cd]
reproduce *args:
    @exec {{ lab }} reproduce "$@"

# Rebuild results.tsv from the runs' receipts
[group('lab'), no-cd]
rebuild *args:
    @exec {{ lab }} rebuild "$@"

# Serve the lab to a coding agent by the Model Context Protocol, over stdin and stdout
[group('lab'), no-cd]
mcp *args:
    @exec {{ lab }} mcp "$@"

import? 'dev.just'
