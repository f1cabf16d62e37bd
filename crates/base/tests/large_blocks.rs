//! Buffers that grow to a size of many megabytes take no more memory than they hold. The only test here, since it looks at the whole process.

#[global_allocator]
static HEAP: damselfly_base::heap::Heap = damselfly_base::heap::Heap;

/// Bytes of the process that are in memory.
fn resident_bytes() -> usize {
    const PAGE_BYTES: usize = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * PAGE_BYTES
}

/// The bug: a client that had sent 100 MB without reading its replies left 225 to 310 MB resident. The cause: an input that grows was
/// copied each time to a larger block, and the allocator keeps blocks that were freed for a second. Now large blocks are mappings,
/// which the system moves.
#[test]
#[cfg(all(target_os = "linux", not(sanitize_address)))]
fn a_buffer_that_grows_takes_no_more_than_it_holds() {
    const STEP: usize = 1 << 20;
    const SLACK: usize = 24 << 20;
    let before = resident_bytes();
    let mut buffer: Vec<u8> = Vec::new();
    for step in 0..128 {
        if buffer.capacity() - buffer.len() < STEP {
            buffer.reserve_exact(buffer.len().max(STEP));
        }
        buffer.resize(buffer.len() + STEP, step as u8);
        let resident = resident_bytes() - before;
        assert!(
            resident < buffer.len() + SLACK,
            "{resident} of {}",
            buffer.len()
        );
    }
    for (step, bytes) in buffer.chunks(STEP).enumerate() {
        assert!(bytes.iter().all(|&byte| byte == step as u8));
    }
    let before = damselfly_base::heap::used_bytes();
    let full = buffer.len();
    buffer.truncate(3 * STEP);
    buffer.shrink_to_fit();
    assert!(
        buffer
            .iter()
            .enumerate()
            .all(|(at, &byte)| byte == (at / STEP) as u8)
    );
    assert_eq!(before - damselfly_base::heap::used_bytes(), full - 3 * STEP);
    let zeros = vec![0_u8; 64 * STEP];
    assert!(zeros.iter().all(|&byte| byte == 0));
    drop((buffer, zeros));
    assert!(resident_bytes() < 64 * STEP);
}
