//! The program: everything it does is in the library's `cli`.

/// The system's gives large buffers back to the kernel each time, and pays for it with page faults at the next one: a tenth
/// of the core under full load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    coati::cli::main()
}
