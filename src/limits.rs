//! Every bound of the program, named here, asserted against each other. Settings of the user's are in `config`.

/// Cores that one broker uses.
pub const SHARDS_MAX: u16 = 255;

/// Bytes of requests of one connection that may be in progress before it stops reading.
pub const CONNECTION_REQUEST_BYTES_MAX: usize = 16 << 20;

/// Requests of one connection that may be in progress before it stops reading.
pub const CONNECTION_REQUESTS_MAX: usize = 256;

/// Bytes of responses of one connection that may wait to be sent before it stops reading.
pub const CONNECTION_RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Lines a second that one core writes about connections it closes for what their peers sent; the rest are counted.
pub const COMPLAINTS_MAX: usize = 100;

/// Received bytes of requests that one core may hold when `queued.max.request.bytes` does not say; at the bound it stops reading.
pub const CORE_REQUEST_BYTES_MAX: usize = 128 << 20;

/// Memory that the unsent responses of one core may hold; at the bound records are sent from files.
pub const CORE_RESPONSE_BYTES_MAX: usize = 64 << 20;

/// One connection may hold this part of the response memory that is free.
pub const RESPONSE_MEMORY_SHARES: usize = 16;

/// A response may take this much of its records from memory however full it is, when the connection took its last one.
pub const RESPONSE_MEMORY_LEAST: usize = 64 << 10;

/// What a piece of a response counts at least: it is a slice that keeps a whole buffer of the tail cache alive.
pub const RESPONSE_PIECE_BYTES_LEAST: usize = 64 << 10;

/// Bytes of responses that are handed to the socket at once; what they hold is given back when all are sent.
pub const SEND_BYTES: usize = 1 << 20;

/// Bytes appended to one log and not yet written from which on acks=0 produces count as in progress.
pub const UNWRITTEN_BYTES_MAX: usize = 4 << 20;

/// Bytes of one append that goes through its core's journal; a larger one is worth a write of its segment.
pub const JOURNAL_APPEND_BYTES_MAX: usize = 128 << 10;

/// Bytes of one log that go through the journal at once; where more wait, all go straight into the segment.
pub const JOURNAL_ENTRY_BYTES_MAX: usize = 256 << 10;

/// Bytes of one write into a journal.
pub const JOURNAL_FRAME_BYTES_MAX: usize = 1 << 20;

/// What a journal begins with, and what of it is used again at a time.
pub const JOURNAL_ZONE_BYTES: u32 = 4 << 20;

/// As large as the journal of one core grows, and with many logs, as each has a write and a sync of its own when room
/// is to be freed.
pub const JOURNAL_ZONES_FEW: usize = 16;
pub const JOURNAL_ZONES_MAX: usize = 64;
pub const JOURNAL_LOGS_PER_ZONE: usize = 16;

/// Appends by which a journal tells whether they come slower when its writes are kept apart: a tenth more or less of
/// them is chance.
pub const JOURNAL_PACE_APPENDS: u64 = 256;

/// Bytes of one log that only the journal has until its segment is written behind it.
pub const BEHIND_BYTES_MAX: u32 = 256 << 10;

/// So long at most its segment waits for more of them.
pub const BEHIND_MS_MAX: i64 = 5_000;

/// Bytes a connection asks the kernel for at once when no frame tells it how many to expect.
pub const RECEIVE_BYTES: usize = 64 << 10;

/// The most that it asks for when its peer fills whatever it has.
pub const RECEIVE_BYTES_MAX: usize = 512 << 10;

/// Of a frame that is on its way, so many bytes are waited for before they are received.
pub const RECEIVE_BYTES_LEAST: usize = 256 << 10;

/// Pieces that one send hands to the kernel.
pub const SEND_SLICES_MAX: usize = 64;

/// Bytes moved between two looks at whether others should run.
pub const YIELD_BYTES: usize = 256 << 10;

/// Bytes that one cold read brings from the disk at a time: a write that comes meanwhile waits so long.
pub const COLD_READ_BYTES: usize = 256 << 10;

/// As little as one cold read brings, for a peer that takes little at a time.
pub const COLD_READ_BYTES_LEAST: usize = 64 << 10;

/// Tail cache of a core that has the metadata log and no partition.
pub const METADATA_TAIL_BYTES: usize = 16 << 20;

/// Connections to the admin endpoint at one time; one too many is told so and closed.
pub const ADMIN_CONNECTIONS_MAX: usize = 32;

/// Characters of a client's id that its connection keeps for those who look.
pub const CLIENT_ID_CHARS_KEPT: usize = 120;

/// Partitions, clients and groups that the live view tells at a time.
pub const WATCH_LINES_MAX: usize = 200;

/// Connections and groups of one core that it looks at each time; of more it tells how many there are.
pub const WATCH_LOOKS_MAX: usize = 10_000;

/// Client ids of one core that it tells apart.
pub const WATCH_CLIENTS_MAX: usize = 1_000;

/// Characters of a group's id that it tells.
pub const WATCH_NAME_CHARS_MAX: usize = 120;

/// Partitions, and topics, that the metrics tell one by one; of more only the sums are told.
pub const METRICS_PARTITIONS_MAX: usize = 20_000;

/// The longest client id and topic name that a log line carries.
pub const LOGGED_NAME_CHARS_MAX: usize = 249;

/// The most that the records of one produced batch may take when they have to be decompressed to be checked
/// or packed anew. They live for one call, and a core makes one such call at a time.
pub const DECOMPRESSED_BATCH_BYTES_MAX: usize = 128 << 20;

/// How many refused records of one batch an answer lists; the batch is refused as a whole anyway.
pub const RECORD_ERRORS_MAX: usize = 1000;

/// What one member of a group may say under all of its protocols together: a group's record, with what all members say,
/// must fit a batch.
pub const MEMBER_METADATA_BYTES_MAX: usize = 1 << 20;

/// What all members of one group may say under all of their protocols together.
pub const GROUP_METADATA_BYTES_MAX: usize = 16 << 20;

/// What a member of a group counts at least in what those of a core hold (`group.members.max.bytes`).
pub const GROUP_MEMBER_BYTES_LEAST: usize = 512;

/// Member ids of one group that were given out and have not been joined with.
pub const GROUP_PENDING_MEMBERS_MAX: usize = 10_000;

/// Groups whose offsets one partition of `__consumer_offsets` holds.
pub const GROUPS_PER_COORDINATOR_MAX: usize = 100_000;

/// Bytes of a coordinator's log that are replayed at a time.
pub const COORDINATOR_LOAD_BYTES: usize = 1 << 20;

const _: () = assert!(GROUP_METADATA_BYTES_MAX >= MEMBER_METADATA_BYTES_MAX);
const _: () = assert!(JOURNAL_APPEND_BYTES_MAX <= JOURNAL_ENTRY_BYTES_MAX);
const _: () = assert!(JOURNAL_ENTRY_BYTES_MAX < JOURNAL_FRAME_BYTES_MAX);
const _: () = assert!(JOURNAL_FRAME_BYTES_MAX <= JOURNAL_ZONE_BYTES as usize);
const _: () = assert!((BEHIND_BYTES_MAX as usize) < UNWRITTEN_BYTES_MAX);
const _: () = assert!(COLD_READ_BYTES >= YIELD_BYTES);
const _: () = assert!(CONNECTION_RESPONSE_BYTES_MAX >= COLD_READ_BYTES);
