# What each core of a Coati broker is for, and how much it may take: `coati start --profile FILE`. Written by
# `coati tune profile`.
# Machine: CPUs 0-3 usable, 4 physical cores; the machine has 15917 MiB of memory; vda interrupts CPUs 2; ens5
# interrupts CPUs 1.
# The disk was not measured: `coati tune disk DIR --json=disk.json`, then `coati tune profile --disk
# disk.json`.
# A broker's setting that is given (log.tail.cache.bytes, queued.max.request.bytes) wins over what is said
# here.

# throughput, as nothing bounds the CPUs' time; --preset latency or shared chooses another
preset = "throughput"
# a connection begins on the core with the fewest; one that asks only the group coordinators of another core
# moves there ("partitions" moves it also where all its records are, "least" leaves it)
connections = "home"
# none: every CPU has a shard, and some have to take the interrupts
irq_free_cpus = []

# 4 shards: every CPU that is to be the broker's has a shard with connections and partitions.
[[core]]
cpu = 0
# it has the controller, the checkpoints and the admin endpoint as well: they are little work
roles = ["network", "partitions", "background", "controller"]
# it sleeps when there is nothing to do
stay_awake = false
# 497 MiB a core; the machine has 15917 MiB: what was written last, which readers near the end get without the
# disk
tail_cache_bytes = 521142272
# 384 MiB a core; the machine has 15917 MiB: two thirds for requests that are not answered, a third for
# answers that are not taken
network_bytes = 402653184
# a task with more to do lets others run after half a millisecond
preempt_us = 500
# compaction has a fifth of the core at most
cleaner_percent = 20
# a group of waiting batches is written as one, of 2 MiB at most: enough for most disks
write_bytes = 2097152
# writes of one partition that the disk has at a time; a second begins only when a quarter of the former has
# come
write_depth = 2
# one cold read takes 256 KiB from the disk: a write that comes meanwhile waits so long
read_ahead_bytes = 262144

[[core]]
cpu = 1
roles = ["network", "partitions"]
stay_awake = false
tail_cache_bytes = 521142272
network_bytes = 402653184
preempt_us = 500
cleaner_percent = 20
write_bytes = 2097152
write_depth = 2
read_ahead_bytes = 262144

[[core]]
cpu = 2
roles = ["network", "partitions"]
stay_awake = false
tail_cache_bytes = 521142272
network_bytes = 402653184
preempt_us = 500
cleaner_percent = 20
write_bytes = 2097152
write_depth = 2
read_ahead_bytes = 262144

[[core]]
cpu = 3
roles = ["network", "partitions"]
stay_awake = false
tail_cache_bytes = 521142272
network_bytes = 402653184
preempt_us = 500
cleaner_percent = 20
write_bytes = 2097152
write_depth = 2
read_ahead_bytes = 262144
