//! Every bound of the program, named here, asserted against each other. Settings of the user's are in `config`.

/// Cores that one broker uses.
pub const SHARDS_MAX: u16 = 255;

/// Memory of all cores for what was written last, to serve it again without the disk.
pub const TAIL_CACHE_BYTES: usize = 256 << 20;

/// Batches of messages that may wait in the channel from one core to another; a full one holds the sender's turn back.
pub const MESH_BATCHES_MAX: usize = 1024;

/// Bytes of requests of one connection that may be in progress before it stops reading.
pub const CONNECTION_REQUEST_BYTES_MAX: usize = 16 << 20;

/// Requests of one connection that may be in progress before it stops reading.
pub const CONNECTION_REQUESTS_MAX: usize = 256;

/// Bytes of responses of one connection that may wait to be sent before it stops reading.
pub const CONNECTION_RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Lines a second that one core writes about connections it closes for what their peers sent; the rest are counted.
pub const COMPLAINTS_MAX: usize = 100;

/// Bytes a connection asks the kernel for at once when no frame tells it how many to expect.
pub const RECEIVE_BYTES: usize = 64 << 10;

/// What a connection's read buffer may keep while it waits for a request.
pub const RECEIVE_BYTES_IDLE_MAX: usize = RECEIVE_BYTES;

/// Pieces that one send hands to the kernel.
pub const SEND_SLICES_MAX: usize = 64;

/// Bytes moved between two looks at whether others should run.
pub const YIELD_BYTES: usize = 256 << 10;

/// Bytes that one cold read brings from the disk at a time.
pub const COLD_READ_BYTES: usize = 1 << 20;

/// The longest client id and topic name that a log line carries.
pub const LOGGED_NAME_CHARS_MAX: usize = 249;

/// The most that the records of one produced batch may take when they have to be decompressed to be checked
/// or packed anew. They live for one call, and a core makes one such call at a time.
pub const DECOMPRESSED_BATCH_BYTES_MAX: usize = 128 << 20;

/// How many refused records of one batch an answer lists; the batch is refused as a whole anyway.
pub const RECORD_ERRORS_MAX: usize = 1000;

const _: () = assert!(COLD_READ_BYTES >= YIELD_BYTES);
const _: () = assert!(CONNECTION_RESPONSE_BYTES_MAX >= COLD_READ_BYTES);
