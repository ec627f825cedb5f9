//! Owns every bound of the program that no setting names.

/// The most that the records of one produced batch may take when they have to be decompressed to be checked
/// or packed anew. They live for one call, and a core makes one such call at a time.
pub const DECOMPRESSED_BATCH_BYTES_MAX: usize = 128 << 20;

/// How many refused records of one batch an answer lists; the batch is refused as a whole anyway.
pub const RECORD_ERRORS_MAX: usize = 1000;
