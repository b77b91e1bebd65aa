//! Which image lies at which address of a process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::elf::{Image, build_id_in_memory};
use super::{Bias, Svma};
use crate::memory::{Avma, Memory};
use crate::process::{Mapping, Process, maps, same_file};

/// What part a mapped image plays in a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// The server's executable.
    Server,
    /// The C library (with libpthread and its kin where they are separate).
    Libc,
    /// The dynamic linker.
    DynamicLinker,
    /// The kernel's page of user-space code.
    Vdso,
    /// Any other file: extensions and the libraries that they use.
    Library,
    /// No file: code that was generated while running, or memory that is no code at all.
    Anonymous,
}

impl ModuleKind {
    fn of_path(path: &Path) -> Self {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        const LIBC: [&str; 7] = [
            "libc.so",
            "libc-",
            "libpthread.so",
            "libpthread-",
            "librt.so",
            "librt-",
            "libc.musl-",
        ];
        if path.as_os_str() == "[vdso]" {
            ModuleKind::Vdso
        // musl's libc and dynamic linker are one file; most of what runs in it is libc.
        } else if name.starts_with("ld-musl-") || LIBC.iter().any(|p| name.starts_with(p)) {
            ModuleKind::Libc
        } else if name.starts_with("ld-linux") || name.starts_with("ld-2") || name == "ld.so" {
            ModuleKind::DynamicLinker
        } else if path.is_absolute() {
            ModuleKind::Library
        } else {
            ModuleKind::Anonymous
        }
    }
}

/// An image as it is mapped.
#[derive(Debug)]
pub struct Module {
    /// Its path as the process sees it.
    pub path: PathBuf,
    /// What part it plays.
    pub kind: ModuleKind,
    /// From stated to actual addresses.
    pub bias: Bias,
    /// Symbols and unwind tables.
    pub image: Rc<Image>,
}

impl Module {
    /// Where it has the symbol `name`, if it has.
    pub fn address_of(&self, name: &str) -> Option<Avma> {
        let found = self.image.symbols().by_name(&[name]);
        found
            .get(name)
            .map(|(symbol, _)| self.bias.to_avma(symbol.start))
    }

    /// The stated address of `avma`.
    pub fn to_svma(&self, avma: Avma) -> Svma {
        self.bias.to_svma(avma)
    }
}

type FileKey = (u32, u32, u64);

/// The mappings of one process, and the images behind them as far as they were loaded.
#[derive(Debug)]
pub struct AddressSpace<'p> {
    process: &'p Process,
    mappings: Vec<Mapping>,
    executable: Option<PathBuf>,
    images: RefCell<HashMap<FileKey, Option<Rc<Image>>>>,
    modules: RefCell<HashMap<Avma, Option<Rc<Module>>>>,
}

impl<'p> AddressSpace<'p> {
    /// Reads what is mapped. Images are loaded when asked for.
    pub fn read(process: &'p Process) -> std::io::Result<Self> {
        let executable = std::fs::read_link(format!("/proc/{}/exe", process.pid())).ok();
        Ok(AddressSpace {
            process,
            mappings: process.maps()?,
            executable: executable.map(without_deleted),
            images: RefCell::default(),
            modules: RefCell::default(),
        })
    }

    /// Reads anew what is mapped, keeping the images that were loaded. For when code was mapped since.
    pub fn refresh(&mut self) -> std::io::Result<()> {
        self.mappings = self.process.maps()?;
        self.modules.borrow_mut().clear();
        Ok(())
    }

    /// The mappings, sorted by address.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The mapping at `addr`.
    pub fn mapping_at(&self, addr: Avma) -> Option<&Mapping> {
        maps::find(&self.mappings, addr)
    }

    /// The module at `addr` if it was loaded before. Opens nothing: for use while a backend stands still.
    pub fn loaded_at(&self, addr: Avma) -> Option<Rc<Module>> {
        let mapping = self.mapping_at(addr)?;
        self.modules.borrow().get(&mapping.start)?.clone()
    }

    /// Whether loading the module at `addr` was tried before.
    pub fn tried_at(&self, addr: Avma) -> bool {
        self.mapping_at(addr)
            .is_none_or(|m| self.modules.borrow().contains_key(&m.start))
    }

    /// The module at `addr`, loaded now if it was not yet. Opens files; never while a backend stands still.
    pub fn load_at(&self, addr: Avma, memory: &dyn Memory) -> Option<Rc<Module>> {
        let mapping = self.mapping_at(addr)?;
        if let Some(known) = self.modules.borrow().get(&mapping.start) {
            return known.clone();
        }
        let module = self.load(mapping, memory).map(Rc::new);
        self.modules
            .borrow_mut()
            .insert(mapping.start, module.clone());
        module
    }

    /// The server's executable.
    pub fn executable(&self, memory: &dyn Memory) -> Option<Rc<Module>> {
        let path = self.executable.as_ref()?;
        let mapping = self
            .mappings
            .iter()
            .find(|m| m.has_file() && m.path == *path)?;
        self.load_at(mapping.start, memory)
    }

    /// The C library.
    pub fn libc(&self, memory: &dyn Memory) -> Option<Rc<Module>> {
        let mut candidates = self
            .mappings
            .iter()
            .filter(|m| m.executable && ModuleKind::of_path(&m.path) == ModuleKind::Libc)
            .filter_map(|m| self.load_at(m.start, memory));
        candidates.find(|m| m.address_of("__errno_location").is_some())
    }

    fn load(&self, mapping: &Mapping, memory: &dyn Memory) -> Option<Module> {
        let mut kind = ModuleKind::of_path(&mapping.path);
        let image = match kind {
            ModuleKind::Anonymous => return None,
            ModuleKind::Vdso => {
                let mut bytes = vec![0; (mapping.end.0 - mapping.start.0).min(1 << 20) as usize];
                memory.read(mapping.start, &mut bytes).ok()?;
                Rc::new(Image::from_bytes(bytes).ok()?)
            }
            _ => {
                if Some(&mapping.path) == self.executable.as_ref() {
                    kind = ModuleKind::Server;
                }
                let known = self.images.borrow().get(&mapping.file).cloned();
                match known {
                    Some(image) => image?,
                    None => {
                        let image = self
                            .open_image(mapping, kind == ModuleKind::Server, memory)
                            .map(Rc::new);
                        self.images.borrow_mut().insert(mapping.file, image.clone());
                        image?
                    }
                }
            }
        };
        let bias = image.bias_of_mapping(mapping.start, mapping.file_offset)?;
        Some(Module {
            path: mapping.path.clone(),
            kind,
            bias,
            image,
        })
    }

    /// Opens the file behind `mapping`, and only believes it if it is the mapped inode or carries the build-id
    /// that is in memory: after a package upgrade another file lies at the same path.
    fn open_image(
        &self,
        mapping: &Mapping,
        executable: bool,
        memory: &dyn Memory,
    ) -> Option<Image> {
        let file = if executable {
            self.process.executable()
        } else {
            self.process.open_mapped(mapping)
        }
        .ok()?;
        let surely_the_same = executable || same_file(&file, mapping);
        let image = Image::from_file(file).ok()?;
        if surely_the_same {
            return Some(image);
        }
        let first = self
            .mappings
            .iter()
            .find(|m| m.file == mapping.file && m.file_offset == 0)?;
        let in_memory = build_id_in_memory(memory, first.start);
        (in_memory.is_some() && in_memory.as_ref() == image.build_id()).then_some(image)
    }
}

fn without_deleted(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|p| p.strip_suffix(" (deleted)")) {
        Some(p) => PathBuf::from(p),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_path() {
        let kind = |p: &str| ModuleKind::of_path(Path::new(p));
        assert_eq!(kind("/lib/x86_64-linux-gnu/libc.so.6"), ModuleKind::Libc);
        assert_eq!(kind("/lib/libc-2.31.so"), ModuleKind::Libc);
        assert_eq!(kind("/lib/ld-musl-x86_64.so.1"), ModuleKind::Libc);
        assert_eq!(
            kind("/lib64/ld-linux-x86-64.so.2"),
            ModuleKind::DynamicLinker
        );
        assert_eq!(kind("/usr/lib/libcurl.so.4"), ModuleKind::Library);
        assert_eq!(kind("[vdso]"), ModuleKind::Vdso);
        assert_eq!(kind(""), ModuleKind::Anonymous);
        assert_eq!(kind("[heap]"), ModuleKind::Anonymous);
    }
}
