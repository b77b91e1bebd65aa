//! Names for the functions of memory contexts, which are static up to PostgreSQL 15 and nameless in a stripped server.
//!
//! Every kind of memory context has a table of its functions (`MemoryContextMethods`, src/include/nodes/memnodes.h), and
//! the exported function that creates a context of that kind takes the table's address.

use std::collections::BTreeMap;

use crate::address::{Avma, Svma};
use crate::image::Module;
use crate::memory::Memory;

/// What creates a context of each kind, and the names of the kind's functions in the order of the table (12 to 15:
/// src/backend/utils/mmgr/aset.c, slab.c, generation.c).
const KINDS: [(&str, [&str; 8]); 3] = [
    (
        "AllocSetContextCreateInternal",
        [
            "AllocSetAlloc",
            "AllocSetFree",
            "AllocSetRealloc",
            "AllocSetReset",
            "AllocSetDelete",
            "AllocSetGetChunkSpace",
            "AllocSetIsEmpty",
            "AllocSetStats",
        ],
    ),
    (
        "SlabContextCreate",
        [
            "SlabAlloc",
            "SlabFree",
            "SlabRealloc",
            "SlabReset",
            "SlabDelete",
            "SlabGetChunkSpace",
            "SlabIsEmpty",
            "SlabStats",
        ],
    ),
    (
        "GenerationContextCreate",
        [
            "GenerationAlloc",
            "GenerationFree",
            "GenerationRealloc",
            "GenerationReset",
            "GenerationDelete",
            "GenerationGetChunkSpace",
            "GenerationIsEmpty",
            "GenerationStats",
        ],
    ),
];

/// Names the functions of all kinds of memory contexts in the server's image, where symbols do not. Whether all of them
/// have names now: then a function without one is none of them.
pub(super) fn name_functions(server: &Module, memory: &dyn Memory) -> bool {
    let symbols = server.image.symbols();
    KINDS.iter().all(|(creator, names)| {
        if symbols.has(names[0]) {
            return true;
        }
        match find_table(server, creator, memory) {
            Some(table) => {
                for (function, name) in table.into_iter().zip(names) {
                    server.image.tell_name(function, name);
                }
                true
            }
            None => false,
        }
    })
}

/// The functions in the table whose address `creator` takes.
fn find_table(server: &Module, creator: &str, memory: &dyn Memory) -> Option<[Svma; 8]> {
    const LARGEST: u64 = 16 << 10;
    let image = &server.image;
    let (symbol, _) = *image.symbols().by_name(&[creator]).get(creator)?;
    let taken = image.ask_code(symbol.start, symbol.size.min(LARGEST), |machine, code| {
        machine.addresses_taken(code, symbol.start)
    })?;
    let mut tables = BTreeMap::new();
    for at in taken {
        if let Some(table) = read_table(server, at, memory) {
            tables.insert(at, table);
        }
    }
    // Two that look alike, and nobody could tell which.
    let (_, table) = tables.pop_first()?;
    tables.is_empty().then_some(table)
}

/// The table at `at`, if all that lies there are the starts of different functions of the server.
fn read_table(server: &Module, at: Svma, memory: &dyn Memory) -> Option<[Svma; 8]> {
    let mut bytes = [0; 64];
    memory.read(server.bias.to_avma(at), &mut bytes).ok()?;
    let mut table = [Svma(0); 8];
    for (slot, word) in table.iter_mut().zip(bytes.as_chunks::<8>().0) {
        let function = server.to_svma(Avma(u64::from_le_bytes(*word)));
        let (start, _) = server.image.function_bounds(function)?;
        *slot = (start == function).then_some(function)?;
    }
    let mut different = table;
    different.sort_unstable();
    different
        .windows(2)
        .all(|pair| pair[0] != pair[1])
        .then_some(table)
}
