//! Addresses, each kind a type of its own: where something lies in a process, and where its file says that it lies.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An actual virtual memory address: where something lies in the running process.
///
/// The address in its file is an [`Svma`], and the difference a
/// [`Bias`]; the names are those of the `findshlibs` package.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Avma(pub u64);

impl Avma {
    /// The address `n` bytes further on, wrapping as the processor's own arithmetic does.
    pub fn offset(self, n: i64) -> Avma {
        Avma(self.0.wrapping_add_signed(n))
    }
}

impl fmt::Display for Avma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Avma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Avma {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl schemars::JsonSchema for Avma {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "address".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^0x[0-9a-f]{1,16}$" })
    }
}

impl<'de> Deserialize<'de> for Avma {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        u64::from_str_radix(digits, 16)
            .map(Avma)
            .map_err(serde::de::Error::custom)
    }
}

/// A stated virtual memory address: where the file says that something lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Svma(pub u64);

/// What to add to an [`Svma`] to get the [`Avma`] of one mapped image; zero for an executable that is not
/// position-independent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bias(pub u64);

impl Bias {
    /// Where the process has what the file states to be at `svma`.
    pub fn to_avma(self, svma: Svma) -> Avma {
        Avma(svma.0.wrapping_add(self.0))
    }

    /// Where the file states that to be which the process has at `avma`.
    pub fn to_svma(self, avma: Avma) -> Svma {
        Svma(avma.0.wrapping_sub(self.0))
    }
}

impl fmt::Display for Svma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Svma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
