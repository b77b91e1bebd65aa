//! Where a server keeps the variables that matter here: by name, through the dynamic symbols that every build has.
//!
//! PostgreSQL is linked with `-Wl,-E`, so that extensions find its functions and variables; whatever is not static
//! is there, in stripped builds too.

use std::collections::HashMap;

use crate::address::Avma;
use crate::image::Module;

/// The variables of the classic interrupt model with their sizes: globals.c and miscadmin.h, all versions up to 19.
/// A server that lacks one, or has it in another size, works in another way: nothing is known of it then.
pub const CLASSIC_MODEL: [(&str, u64); 6] = [
    ("InterruptPending", 4),
    ("QueryCancelPending", 4),
    ("ProcDiePending", 4),
    ("InterruptHoldoffCount", 4),
    ("QueryCancelHoldoffCount", 4),
    ("CritSectionCount", 4),
];

/// What the reworked interrupt model under development brings (src/include/ipc/interrupt.h there).
const OTHER_MODEL: &str = "MyPendingInterruptsFlags";

/// What tells a server's executable from any other program.
pub const TELLTALES: [&str; 5] = [
    "ProcessInterrupts",
    "PostgresMain",
    "MyProcPid",
    "IsUnderPostmaster",
    "PostmasterPid",
];

/// Other variables and functions that are used where they are there.
const OTHERS: [&str; 30] = [
    "ProcSignalBarrierPending",
    "proc_exit_inprogress",
    "PG_exception_stack",
    "MyProc",
    "MyBackendType",
    "AuxProcessResourceOwner",
    "MyBEEntry",
    "my_wait_event_info",
    "debug_query_string",
    "cluster_name",
    "DataDir",
    "ClientAuthInProgress",
    "CurrentMemoryContext",
    "ErrorContext",
    "MyProcPort",
    "IsBackgroundWorker",
    "MyBgworkerEntry",
    "PostPortNumber",
    "am_walsender",
    "StatementCancelHandler",
    "die",
    "procsignal_sigusr1_handler",
    "pgStatSessionEndCause",
    "PqCommMethods",
    "ProcGlobal",
    "MainLWLockArray",
    "NamedLWLockTrancheArray",
    "NamedLWLockTrancheRequests",
    "MyWalSnd",
    "SyncRepConfig",
];

/// Addresses of a server's variables and functions in one process.
#[derive(Debug, Default, Clone)]
pub struct Globals {
    addresses: HashMap<&'static str, Avma>,
    model_objection: Option<String>,
}

impl Globals {
    /// Looks all of them up in the server's executable.
    pub fn of(executable: &Module) -> Self {
        let names: Vec<&'static str> = CLASSIC_MODEL
            .iter()
            .map(|(name, _)| *name)
            .chain(TELLTALES)
            .chain(OTHERS)
            .chain([OTHER_MODEL])
            .collect();
        let found = executable.image.symbols().by_name(&names);
        let mut objection = found
            .contains_key(OTHER_MODEL)
            .then(|| format!("it has {OTHER_MODEL}: a reworked interrupt model"));
        for (name, size) in CLASSIC_MODEL {
            match found.get(name) {
                None => objection = Some(format!("it has no variable {name}")),
                Some((symbol, _)) if symbol.size != size => {
                    objection = Some(format!("its {name} has {} bytes, not {size}", symbol.size));
                }
                Some(_) => {}
            }
        }
        Globals {
            addresses: found
                .into_iter()
                .map(|(name, (symbol, _))| (name, executable.bias.to_avma(symbol.start)))
                .collect(),
            model_objection: objection,
        }
    }

    /// Where the variable or function `name` is.
    pub fn get(&self, name: &str) -> Option<Avma> {
        self.addresses.get(name).copied()
    }

    /// The telltales that are missing: none for a PostgreSQL server.
    pub fn missing_telltales(&self) -> Vec<&'static str> {
        TELLTALES
            .into_iter()
            .filter(|name| !self.addresses.contains_key(name))
            .collect()
    }

    /// Why this is not the classic interrupt model, if it is not.
    pub fn model_objection(&self) -> Option<&str> {
        self.model_objection.as_deref()
    }
}
