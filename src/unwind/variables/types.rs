//! Types, as far as showing a value takes (DWARF 5, chapter 5).

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use gimli::{AttributeValue, DwAte, DwTag};

use super::dies::{Attribute, Die, Dies, Entry, Home};

/// The most members of a structure, or names of an enumeration. PostgreSQL's node tags are some 450.
const MOST_MEMBERS: usize = 2000;
/// What one of them counts for, since it is kept.
const WORK_OF_MEMBER: usize = 5;
/// The most dimensions of an array.
const MOST_DIMENSIONS: usize = 8;
/// More steps from a name to what it stands for than anyone takes.
const MOST_STEPS: usize = 64;
/// The most types of one image that are kept.
const MOST_TYPES: usize = 5000;

/// A type.
#[derive(Clone)]
pub enum Type {
    /// A number, a character or a truth value.
    Base {
        name: String,
        size: u64,
        encoding: DwAte,
    },
    /// A pointer, also to nothing in particular.
    Pointer { to: Option<Die>, size: u64 },
    /// A reference of C++.
    Reference { to: Option<Die>, size: u64 },
    /// A structure, a class or a union.
    Composite {
        name: Option<String>,
        keyword: &'static str,
        size: u64,
        members: Rc<[Member]>,
    },
    /// An array: the numbers of elements, outermost first; none where that is not said.
    Array {
        of: Option<Die>,
        counts: Vec<Option<u64>>,
    },
    /// An enumeration.
    Enumeration {
        name: Option<String>,
        size: u64,
        names: Rc<[(String, i128)]>,
        /// What its values are counted in.
        signed: bool,
    },
    /// A function.
    Function {
        result: Option<Die>,
        arguments: Rc<[Option<Die>]>,
    },
    /// Another name for a type.
    Typedef {
        name: Option<String>,
        of: Option<Die>,
    },
    /// `const` and its kin.
    Qualified { word: &'static str, of: Option<Die> },
    /// Anything else.
    Unknown { name: Option<String>, size: u64 },
}

/// A member of a structure.
#[derive(Clone)]
pub struct Member {
    /// Its name; none of an anonymous structure or union.
    pub name: Option<String>,
    /// It is what the structure inherits from.
    pub inherited: bool,
    pub of: Option<Die>,
    /// Where it lies: the first bit of it, from the start of the structure.
    pub bit: u64,
    /// How many bits it has, where that is not what its type has.
    pub bits: Option<u64>,
}

/// The types of one image.
pub struct Types<'i> {
    dies: Rc<Dies<'i>>,
    known: RefCell<HashMap<(bool, usize), Rc<Type>>>,
}

impl<'i> Types<'i> {
    pub fn of(dies: Rc<Dies<'i>>) -> Self {
        Types {
            dies,
            known: RefCell::default(),
        }
    }

    /// Takes work for what is done with values.
    pub fn take(&self, amount: usize) -> Option<()> {
        self.dies.take(amount)
    }

    /// Reads a type.
    pub fn get(&self, die: &Die) -> Option<Rc<Type>> {
        self.take(1)?;
        if let Some(known) = self.known.borrow().get(&die.id()) {
            return Some(known.clone());
        }
        let entry = self.dies.entry(die)?;
        let found = Rc::new(self.read(die, &entry));
        let mut known = self.known.borrow_mut();
        if known.len() < MOST_TYPES {
            known.insert(die.id(), found.clone());
        }
        Some(found)
    }

    /// The type itself, behind all other names for it.
    pub fn bare(&self, die: &Die) -> Option<(Die, Rc<Type>)> {
        let mut die = die.clone();
        for _ in 0..MOST_STEPS {
            let found = self.get(&die)?;
            match &*found {
                Type::Typedef { of, .. } | Type::Qualified { of, .. } => die = of.clone()?,
                _ => return Some((die, found)),
            }
        }
        None
    }

    /// The size of a value in bytes; none where that is not known.
    pub fn size(&self, die: &Die) -> Option<u64> {
        let mut die = die.clone();
        let mut factor = 1u64;
        for _ in 0..MOST_STEPS {
            let (_, found) = self.bare(&die)?;
            match &*found {
                Type::Base { size, .. }
                | Type::Pointer { size, .. }
                | Type::Reference { size, .. }
                | Type::Composite { size, .. }
                | Type::Enumeration { size, .. }
                | Type::Unknown { size, .. } => return size.checked_mul(factor),
                Type::Array { of, counts } => {
                    for count in counts {
                        factor = factor.checked_mul(count.unwrap_or(0))?;
                    }
                    die = of.clone()?;
                }
                Type::Function { .. } => return Some(1),
                Type::Typedef { .. } | Type::Qualified { .. } => return None,
            }
        }
        None
    }

    /// Whether it is an array whose length is not written down.
    pub fn is_of_computed_size(&self, die: &Die) -> bool {
        let found = self.bare(die);
        let found = found.as_ref().map(|(_, found)| &**found);
        matches!(found, Some(Type::Array { counts, .. }) if counts.contains(&None))
    }

    fn read(&self, die: &Die, entry: &Entry) -> Type {
        let home = &die.home;
        let name = entry
            .attr_value(gimli::DW_AT_name)
            .and_then(|value| self.dies.text(home, value));
        let size = number(entry, gimli::DW_AT_byte_size).unwrap_or(0);
        let of = entry
            .attr_value(gimli::DW_AT_type)
            .and_then(|value| self.dies.referred(home, &value));
        let pointer_size = match size {
            0 => home.unit.encoding().address_size.into(),
            size => size,
        };
        match entry.tag() {
            gimli::DW_TAG_base_type => Type::Base {
                name: name.unwrap_or_default(),
                size,
                encoding: match entry.attr_value(gimli::DW_AT_encoding) {
                    Some(AttributeValue::Encoding(encoding)) => encoding,
                    _ => DwAte(0),
                },
            },
            gimli::DW_TAG_pointer_type => Type::Pointer {
                to: of,
                size: pointer_size,
            },
            gimli::DW_TAG_reference_type | gimli::DW_TAG_rvalue_reference_type => Type::Reference {
                to: of,
                size: pointer_size,
            },
            gimli::DW_TAG_structure_type | gimli::DW_TAG_class_type | gimli::DW_TAG_union_type => {
                Type::Composite {
                    name,
                    keyword: keyword(entry.tag()),
                    size,
                    members: self.members(die).into(),
                }
            }
            gimli::DW_TAG_array_type => Type::Array {
                of,
                counts: self.counts(die),
            },
            gimli::DW_TAG_enumeration_type => self.enumeration(die, entry, name, size, of),
            gimli::DW_TAG_subroutine_type => Type::Function {
                result: of,
                arguments: self.arguments(die).into(),
            },
            gimli::DW_TAG_typedef => Type::Typedef { name, of },
            gimli::DW_TAG_const_type => Type::Qualified { word: "const", of },
            gimli::DW_TAG_volatile_type => Type::Qualified {
                word: "volatile",
                of,
            },
            gimli::DW_TAG_restrict_type => Type::Qualified {
                word: "restrict",
                of,
            },
            gimli::DW_TAG_atomic_type => Type::Qualified {
                word: "_Atomic",
                of,
            },
            _ => Type::Unknown { name, size },
        }
    }

    fn members(&self, die: &Die) -> Vec<Member> {
        let mut members = Vec::new();
        let _: Option<()> = self.dies.each_child(die, |child, entry| {
            if members.len() == MOST_MEMBERS || self.take(WORK_OF_MEMBER).is_none() {
                return ControlFlow::Break(());
            }
            let inherited = entry.tag() == gimli::DW_TAG_inheritance;
            // One that lies elsewhere is none of the value.
            let elsewhere = entry.attr(gimli::DW_AT_external).is_some()
                || entry.attr(gimli::DW_AT_declaration).is_some();
            if (entry.tag() == gimli::DW_TAG_member && !elsewhere) || inherited {
                members.extend(self.member(&child.home, entry, inherited));
            }
            ControlFlow::Continue(())
        });
        members
    }

    /// None where its place is not a plain number: virtual bases of C++.
    fn member(&self, home: &Home, entry: &Entry, inherited: bool) -> Option<Member> {
        let of = self.dies.type_of(home, entry);
        let byte = match entry.attr_value(gimli::DW_AT_data_member_location) {
            None => 0,
            Some(value) => value.udata_value()?,
        };
        let bits = number(entry, gimli::DW_AT_bit_size);
        let bit = match (number(entry, gimli::DW_AT_data_bit_offset), bits) {
            (Some(bit), _) => bit,
            (None, Some(bits)) => {
                // As DWARF 3 had it: from the most significant bit of the storage.
                let storage = number(entry, gimli::DW_AT_byte_size);
                let storage = storage.or_else(|| self.size(of.as_ref()?))?;
                let from_top = number(entry, gimli::DW_AT_bit_offset).unwrap_or(0);
                let storage = storage.checked_mul(8)?.checked_sub(from_top)?;
                byte.checked_mul(8)?
                    .checked_add(storage.checked_sub(bits)?)?
            }
            (None, None) => byte.checked_mul(8)?,
        };
        Some(Member {
            name: self.dies.name(home, entry),
            inherited,
            of,
            bit,
            bits,
        })
    }

    fn counts(&self, die: &Die) -> Vec<Option<u64>> {
        let mut counts = Vec::new();
        let _: Option<()> = self.dies.each_child(die, |_, entry| {
            if counts.len() == MOST_DIMENSIONS {
                return ControlFlow::Break(());
            }
            if entry.tag() == gimli::DW_TAG_subrange_type {
                let count = number(entry, gimli::DW_AT_count);
                let last = entry.attr_value(gimli::DW_AT_upper_bound);
                let from_last = last.and_then(|last| {
                    // The upper bound of an array without elements is -1.
                    let last = last
                        .sdata_value()
                        .or(last.udata_value().map(|n| n as i64))?;
                    u64::try_from(last.checked_add(1)?).ok()
                });
                counts.push(count.or(from_last));
            }
            ControlFlow::Continue(())
        });
        counts
    }

    fn enumeration(
        &self,
        die: &Die,
        entry: &Entry,
        name: Option<String>,
        size: u64,
        of: Option<Die>,
    ) -> Type {
        let size = match size {
            0 => of.as_ref().and_then(|of| self.size(of)).unwrap_or(4),
            size => size,
        };
        let mut names: Vec<(String, i128)> = Vec::new();
        let _: Option<()> = self.dies.each_child(die, |child, entry| {
            if names.len() == MOST_MEMBERS || self.take(WORK_OF_MEMBER).is_none() {
                return ControlFlow::Break(());
            }
            let value = entry.attr_value_raw(gimli::DW_AT_const_value);
            let value = value.and_then(|value| enumerator(&value));
            if let Some((name, value)) = self.dies.name(&child.home, entry).zip(value) {
                names.push((name, value));
            }
            ControlFlow::Continue(())
        });
        let says_signed = of.and_then(|of| match &*self.bare(&of)?.1 {
            Type::Base { encoding, .. } => Some(is_signed(*encoding)),
            _ => None,
        });
        let _ = entry;
        Type::Enumeration {
            name,
            size,
            signed: says_signed.unwrap_or(false) || names.iter().any(|(_, value)| *value < 0),
            names: names.into(),
        }
    }

    fn arguments(&self, die: &Die) -> Vec<Option<Die>> {
        let mut arguments = Vec::new();
        let _: Option<()> = self.dies.each_child(die, |child, entry| {
            if arguments.len() == MOST_MEMBERS || self.take(WORK_OF_MEMBER).is_none() {
                return ControlFlow::Break(());
            }
            if entry.tag() == gimli::DW_TAG_formal_parameter {
                arguments.push(self.dies.type_of(&child.home, entry));
            }
            ControlFlow::Continue(())
        });
        arguments
    }

    /// How C writes the type.
    pub fn name(&self, die: Option<&Die>) -> String {
        let mut name = self.declare(die.cloned(), String::new(), 0);
        /// In bytes.
        const LONGEST: usize = 300;
        if name.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|i| name.is_char_boundary(*i));
            name.truncate(end.unwrap_or(0));
            name.push('…');
        }
        name
    }

    /// A declaration of `what` as a value of that type: pointers before the name, arrays and functions after it.
    fn declare(&self, die: Option<Die>, what: String, depth: usize) -> String {
        const DEEPEST: usize = 16;
        let after = |word: &str, what: String| match what.as_str() {
            "" => word.to_owned(),
            what => format!("{word} {what}"),
        };
        let Some(die) = die else {
            return after("void", what);
        };
        let found = self.get(&die).filter(|_| depth < DEEPEST);
        let Some(found) = found else {
            return after("?", what);
        };
        let bracketed = |to: &Option<Die>, mark: &str| {
            let pointed = to.as_ref().and_then(|to| self.get(to));
            match pointed.as_deref() {
                Some(Type::Array { .. } | Type::Function { .. }) => format!("({mark}{what})"),
                _ => format!("{mark}{what}"),
            }
        };
        match &*found {
            Type::Base { name, .. } => after(name, what),
            Type::Pointer { to, .. } => self.declare(to.clone(), bracketed(to, "*"), depth + 1),
            Type::Reference { to, .. } => self.declare(to.clone(), bracketed(to, "&"), depth + 1),
            Type::Composite { name, keyword, .. } => match name {
                Some(name) => after(&format!("{keyword} {name}"), what),
                None => after(&format!("{keyword} {{...}}"), what),
            },
            Type::Enumeration { name, .. } => match name {
                Some(name) => after(&format!("enum {name}"), what),
                None => after("enum {...}", what),
            },
            Type::Array { of, counts } => {
                let counts = counts.iter().map(|count| match count {
                    Some(count) => format!("[{count}]"),
                    None => "[]".to_owned(),
                });
                let what = format!("{what}{}", counts.collect::<String>());
                self.declare(of.clone(), what, depth + 1)
            }
            Type::Function { result, arguments } => {
                let arguments = arguments.iter().take(DEEPEST);
                let arguments: Vec<String> = arguments
                    .map(|of| self.declare(of.clone(), String::new(), depth + 4))
                    .collect();
                let what = format!("{what}({})", arguments.join(", "));
                self.declare(result.clone(), what, depth + 1)
            }
            Type::Typedef { name, .. } => after(name.as_deref().unwrap_or("?"), what),
            Type::Qualified { word, of } => {
                let inner = of.as_ref().and_then(|of| self.get(of));
                match inner.as_deref() {
                    // `char *const x` is another thing than `const char *x`.
                    Some(Type::Pointer { .. }) => {
                        self.declare(of.clone(), after(word, what), depth + 1)
                    }
                    _ => format!("{word} {}", self.declare(of.clone(), what, depth + 1)),
                }
            }
            Type::Unknown { name, .. } => after(name.as_deref().unwrap_or("?"), what),
        }
    }
}

fn keyword(tag: DwTag) -> &'static str {
    match tag {
        gimli::DW_TAG_union_type => "union",
        gimli::DW_TAG_class_type => "class",
        _ => "struct",
    }
}

/// Whether numbers of this kind have a sign.
pub fn is_signed(encoding: DwAte) -> bool {
    matches!(encoding, gimli::DW_ATE_signed | gimli::DW_ATE_signed_char)
}

fn number(entry: &Entry, name: gimli::DwAt) -> Option<u64> {
    entry.attr_value(name)?.udata_value()
}

/// The value of a name of an enumeration, by how it is written.
fn enumerator(value: &Attribute) -> Option<i128> {
    match *value {
        AttributeValue::Data1(n) => Some(n.into()),
        AttributeValue::Data2(n) => Some(n.into()),
        AttributeValue::Data4(n) => Some(n.into()),
        AttributeValue::Data8(n) => Some(n.into()),
        AttributeValue::Udata(n) => Some(n.into()),
        AttributeValue::Sdata(n) => Some(n.into()),
        _ => None,
    }
}
