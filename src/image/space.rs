//! Which image lies at which address of a process.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BuildId;
use super::elf::{Image, MAGIC_FUNCTION, build_id_in_memory};
use super::loaded;
use super::locate::{DebugFiles, Finder, Roots};
use crate::address::{Avma, Bias, Svma};
use crate::memory::Memory;
use crate::process::root::Links;
use crate::process::{Mapping, as_text, maps, same_file};
use crate::target::Target;

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
    target: &'p dyn Target,
    mappings: Vec<Mapping>,
    executable: Option<PathBuf>,
    images: RefCell<HashMap<FileKey, Option<Rc<Image>>>>,
    modules: RefCell<HashMap<Avma, Option<Rc<Module>>>>,
    debug_files: Rc<DebugFiles>,
    roots: OnceCell<Rc<Roots>>,
    read_from: RefCell<HashMap<FileKey, ReadFrom>>,
    called_as: RefCell<HashMap<Avma, Option<Rc<str>>>>,
}

/// What an image was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "read_from")]
pub enum ReadFrom {
    /// The very file that is mapped, or one with the same build-id.
    File,
    /// The backend's memory, without what is not loaded of a file.
    Memory,
}

/// A file with code that was replaced or deleted since the process loaded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "replaced_file", deny_unknown_fields)]
pub struct ReplacedFile {
    /// Where the process had it.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub path: PathBuf,
    /// Whether another file is there now; else it was deleted.
    pub replaced: bool,
    /// It is the server's executable.
    pub executable: bool,
    /// What its code was read from; null where it was not needed, or is not to be had.
    pub read_from: Option<ReadFrom>,
}

impl<'p> AddressSpace<'p> {
    /// Reads what is mapped. Images are loaded when asked for.
    pub fn read(target: &'p dyn Target) -> std::io::Result<Self> {
        AddressSpace::read_with(target, Rc::default())
    }

    /// The same, with a say in where debug files are looked for.
    pub fn read_with(target: &'p dyn Target, debug_files: Rc<DebugFiles>) -> std::io::Result<Self> {
        let executable = target.executable_path().ok();
        Ok(AddressSpace {
            target,
            mappings: target.maps()?,
            executable: executable.map(without_deleted),
            images: RefCell::default(),
            modules: RefCell::default(),
            debug_files,
            roots: OnceCell::new(),
            read_from: RefCell::default(),
            called_as: RefCell::default(),
        })
    }

    /// What there was to warn of while images were loaded.
    pub fn warnings(&self) -> Vec<String> {
        self.debug_files.warnings()
    }

    /// The files with code that were replaced or deleted since they were loaded. Asks the file system; never while a
    /// backend stands still.
    pub fn replaced_files(&self, memory: &dyn Memory) -> Vec<ReplacedFile> {
        const MOST: usize = 32;
        let mut found: Vec<ReplacedFile> = Vec::new();
        for mapping in self.mappings.iter().filter(|m| m.deleted && m.executable) {
            let known = found.iter().any(|f| f.path == mapping.path);
            if known || found.len() == MOST || !self.is_an_image(mapping, memory) {
                continue;
            }
            let root = self.roots().theirs();
            found.push(ReplacedFile {
                path: mapping.path.clone(),
                replaced: root.is_some_and(|root| root.metadata(&mapping.path).is_ok()),
                executable: Some(&mapping.path) == self.executable.as_ref(),
                read_from: self.read_from.borrow().get(&mapping.file).copied(),
            });
        }
        found
    }

    /// Whether what is mapped there is an ELF file, and not memory that only looks like a deleted file.
    fn is_an_image(&self, mapping: &Mapping, memory: &dyn Memory) -> bool {
        let mut magic = [0; 4];
        let first = self.first_mapping(mapping);
        first.is_some_and(|m| memory.read(m.start, &mut magic).is_ok() && magic == *b"\x7fELF")
    }

    /// The mapping of the same file's beginning that comes before this one, or is this one.
    fn first_mapping(&self, mapping: &Mapping) -> Option<&Mapping> {
        let mut before = self.mappings.iter().rev();
        before.find(|m| m.start <= mapping.start && m.file == mapping.file && m.file_offset == 0)
    }

    fn roots(&self) -> &Rc<Roots> {
        self.roots
            .get_or_init(|| Rc::new(Roots::of(self.target.living())))
    }

    /// A space of one image at `range`, with stated addresses that are the actual ones, for tests.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_image(
        target: &'p dyn Target,
        range: std::ops::Range<Avma>,
        image: Rc<Image>,
    ) -> Self {
        let mapping = Mapping {
            start: range.start,
            end: range.end,
            readable: true,
            writable: false,
            executable: true,
            shared: false,
            file_offset: 0,
            file: (0, 0, 1),
            path: "/image".into(),
            deleted: false,
        };
        let module = Module {
            path: mapping.path.clone(),
            kind: ModuleKind::Library,
            bias: Bias(0),
            image,
        };
        AddressSpace {
            target,
            modules: RefCell::new(HashMap::from([(range.start, Some(Rc::new(module)))])),
            mappings: vec![mapping],
            executable: None,
            images: RefCell::default(),
            debug_files: Rc::default(),
            roots: OnceCell::new(),
            read_from: RefCell::default(),
            called_as: RefCell::default(),
        }
    }

    /// Reads anew what is mapped, keeping the images that were loaded. For when code was mapped since.
    pub fn refresh(&mut self) -> std::io::Result<()> {
        self.mappings = self.target.maps()?;
        self.modules.borrow_mut().clear();
        self.called_as.borrow_mut().clear();
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

    /// By which of its names a function of `module` was called that returns to `to`, if that was learnt before: `None` if
    /// it was not, `Some(None)` if there is no telling.
    pub fn called_as(&self, to: Avma) -> Option<Option<Rc<str>>> {
        self.called_as.borrow().get(&to).cloned()
    }

    /// Learns it. Opens files; never while a backend stands still.
    pub fn learn_called_as(&self, to: Avma, module: &Module, memory: &dyn Memory) {
        if self.called_as(to).is_none() {
            let name = self.find_called_as(to, module, memory);
            self.called_as.borrow_mut().insert(to, name.map(Rc::from));
        }
    }

    /// Only if the call goes to that very module, and this has a function of the name.
    fn find_called_as(&self, to: Avma, module: &Module, memory: &dyn Memory) -> Option<String> {
        let caller = self.loaded_at(to.offset(-1))?;
        let import = caller.image.import_called_before(caller.to_svma(to))?;
        let target = memory.read_u64(caller.bias.to_avma(import.slot)).ok()?;
        let called = self.load_at(Avma(target), memory)?;
        let same = Rc::ptr_eq(&called.image, &module.image) && called.bias == module.bias;
        (same && module.image.symbols().has(&import.name)).then_some(import.name)
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

    /// The files with code, but for the C library and its kin, that may call one of `functions` by its name, or by one of
    /// `of_extensions` if it is an extension. None where one of them cannot be read. From memory, as the files may be
    /// gone: never while the backend stands still.
    pub fn who_may_call(
        &self,
        memory: &dyn Memory,
        functions: &[&str],
        of_extensions: &[&str],
    ) -> Option<Vec<String>> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let code = self
            .mappings
            .iter()
            .filter(|m| m.executable && m.has_file());
        let code = code.filter(|m| ModuleKind::of_path(&m.path) == ModuleKind::Library);
        for mapping in code.filter(|m| seen.insert(m.file)) {
            let mut same = self.mappings.iter().filter(|m| m.file == mapping.file);
            let start = same.find(|m| m.file_offset == 0)?.start;
            let names = |names: &[&str]| loaded::names_any(memory, start, names);
            if names(functions)? || names(&[MAGIC_FUNCTION])? && names(of_extensions)? {
                let name = mapping.path.file_name().unwrap_or_default();
                found.push(name.to_string_lossy().into_owned());
            }
        }
        Some(found)
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
                        let image = self.open_image(mapping, kind, memory).map(Rc::new);
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

    /// Opens the image behind `mapping`: the mapped inode itself where the kernel gives it to us. Otherwise what lies at
    /// its path, and only if that is the mapped inode or carries the build-id that is in memory: after a package upgrade
    /// another file lies there. Otherwise what is in memory.
    fn open_image(
        &self,
        mapping: &Mapping,
        kind: ModuleKind,
        memory: &dyn Memory,
    ) -> Option<Image> {
        let first = self.first_mapping(mapping)?;
        let in_memory = build_id_in_memory(memory, first.start);
        let mapped = match kind {
            ModuleKind::Server => self.target.executable(),
            _ => self.target.mapped_file(mapping),
        };
        let from_file = match mapped {
            Ok(file) => self.believe(file, mapping, &in_memory, true),
            Err(_) => self.roots().theirs().and_then(|root| {
                // The path is resolved already: a link there now is not what was mapped.
                let file = root.open(&mapping.path, Links::Refused).ok()?;
                let same = same_file(&file, mapping);
                self.believe(file, mapping, &in_memory, same)
            }),
        };
        let found = from_file.map(|(image, inode)| (image, inode, ReadFrom::File));
        let found = found.or_else(|| {
            // The server's own code is searched for more than what is loaded of it.
            let wanted = kind != ModuleKind::Server;
            let image = wanted.then(|| Image::from_memory(memory, first.start))??;
            Some((image, None, ReadFrom::Memory))
        });
        let Some((image, inode, from)) = found else {
            self.debug_files.warn(format!(
                "the code of {} is not known: the file that is mapped is gone, and to read it all the same takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE",
                mapping.path.display()
            ));
            return None;
        };
        self.read_from.borrow_mut().insert(mapping.file, from);
        Some(image.with_debug_files(Finder {
            files: self.debug_files.clone(),
            roots: self.roots().clone(),
            path: mapping.path.clone(),
            inode,
            lines: matches!(kind, ModuleKind::Server | ModuleKind::Library),
        }))
    }

    /// Takes a file for the mapped image where its build-id is that in memory; where there is none to compare, only if
    /// it is the mapped inode.
    fn believe(
        &self,
        file: File,
        mapping: &Mapping,
        in_memory: &Option<BuildId>,
        same_inode: bool,
    ) -> Option<(Image, Option<(u64, u64)>)> {
        let inode = file.metadata().ok().map(|m| (m.dev(), m.ino()));
        let image = Image::from_file(file).ok()?;
        let believed = match (in_memory, image.build_id()) {
            (Some(in_memory), Some(in_file)) => in_memory == in_file,
            _ => same_inode,
        };
        if !believed && same_inode {
            self.debug_files.warn(format!(
                "{} was overwritten since it was loaded: what is in the file is not what is in memory",
                mapping.path.display()
            ));
        }
        believed.then_some((image, inode))
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
