# What each core of a Coati broker is for, and how much it may take: `coati start --profile FILE`. Written by
# `coati tune profile`.
# Machine: CPUs 0-5 usable of 0-7, 4 physical cores; the machine has 64257 MiB of memory.
# The disk was not measured: `coati tune disk DIR --json=disk.json`, then `coati tune profile --disk
# disk.json`.
# A broker's setting that is given (log.tail.cache.bytes, queued.max.request.bytes) wins over what is said
# here.

# shared, as a control group allows 2.50 CPUs' time: a core that spins would use it up
preset = "shared"
# a connection begins on the core with the fewest; one that asks only the group coordinators of another core
# moves there ("partitions" moves it also where all its records are, "least" leaves it)
connections = "home"
# none: interrupts are the machine's, of which the broker has a part
irq_free_cpus = []

# 2 shards: few cores, so that there is something left for others (2.50 CPUs' time).
[[core]]
cpu = 0
# it has the controller, the checkpoints and the admin endpoint as well: they are little work
roles = ["network", "partitions", "background", "controller"]
# it sleeps when there is nothing to do: others want the CPU
stay_awake = false
# 64 MiB a core; the machine has 64257 MiB: what was written last, which readers near the end get without the
# disk
tail_cache_bytes = 67108864
# 96 MiB a core; the machine has 64257 MiB: two thirds for requests that are not answered, a third for answers
# that are not taken
network_bytes = 100663296
# a task with more to do lets others run after half a millisecond
preempt_us = 500
# compaction has a tenth of the core at most
cleaner_percent = 10
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
tail_cache_bytes = 67108864
network_bytes = 100663296
preempt_us = 500
cleaner_percent = 10
write_bytes = 2097152
write_depth = 2
read_ahead_bytes = 262144

# left free: for interrupts, the kernel and other programs
[[core]]
cpu = 2
roles = []

[[core]]
cpu = 3
roles = []

# left free: a thread of a physical core that has a shard
[[core]]
cpu = 4
roles = []

[[core]]
cpu = 5
roles = []
