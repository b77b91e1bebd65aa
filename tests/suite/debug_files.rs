use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use lzma_rust2::{XzOptions, XzWriter};
use object::{Object, ObjectSymbol};
use serde_json::Value;

use crate::harness::{
    How, Installation, Run, Server, Stuck, as_server_user, built, checked, is_root, pgpoke, skip,
};

/// A frame, as far as debug information tells about it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    function: String,
    inlined: bool,
    file: Option<String>,
    line: Option<u64>,
}

/// The frames of one module; with their inlined callers, files and lines.
fn told(output: &Value, module: &str) -> Vec<Told> {
    let frames = output["stack"].as_array().expect("a stack").iter();
    frames
        .filter(|f| f["module"].as_str().is_some_and(|m| m.ends_with(module)))
        .map(|f| Told {
            function: f["function"].as_str().unwrap_or("?").to_owned(),
            inlined: f["inlined"] == true,
            file: f["file"].as_str().map(str::to_owned),
            line: f["line"].as_u64(),
        })
        .collect()
}

fn sources(output: &Value, module: &str) -> Vec<String> {
    let frames = output["stack"].as_array().expect("a stack").iter();
    frames
        .filter(|f| f["module"].as_str().is_some_and(|m| m.ends_with(module)))
        .filter_map(|f| f["symbol_source"].as_str().map(str::to_owned))
        .collect()
}

fn warnings(output: &Value) -> Vec<String> {
    let warnings = output["warnings"].as_array().expect("warnings").iter();
    warnings
        .map(|w| w.as_str().expect("a text").to_owned())
        .collect()
}

/// The verdict and every check with its status.
fn judged(output: &Value) -> Vec<String> {
    let checks = output["checks"].as_array().expect("checks").iter();
    let checks = checks.map(|c| format!("{} {}", c["code"], c["status"]));
    checks.chain([output["verdict"].to_string()]).collect()
}

/// A copy of an installation that may be taken apart.
struct Copy {
    dir: tempfile::TempDir,
    installation: Installation,
}

impl Copy {
    fn of(installation: &Installation) -> Self {
        let dir = Installation::temp_dir();
        let prefix = installation.bindir.parent().expect("a directory");
        for part in ["bin", "lib", "share"] {
            let mut copy = Command::new("cp");
            copy.args(["-a", "--reflink=auto"]);
            checked(copy.arg(prefix.join(part)).arg(dir.path()));
        }
        Self {
            dir,
            installation: installation.clone(),
        }
    }

    fn postgres(&self) -> PathBuf {
        self.dir.path().join("bin/postgres")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self) -> Server {
        let builder = Server::builder().installation(self.installation.clone());
        builder.postgres(self.postgres()).start()
    }
}

fn objcopy(args: &[&str], files: &[&Path]) {
    checked(Command::new("objcopy").args(args).args(files));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in /tmp")
}

/// Moves all symbols and debug information of `image` to `debug`, leaving a debug link behind.
fn split(image: &Path, debug: &Path) {
    objcopy(&["--only-keep-debug"], &[image, debug]);
    strip_and_link(image, debug);
}

fn strip_and_link(image: &Path, debug: &Path) {
    let link = format!("--add-gnu-debuglink={}", text(debug));
    objcopy(&["--strip-all", &link], &[image]);
}

fn build_id(image: &Path) -> String {
    let bytes = fs::read(image).expect("an image");
    let image = object::File::parse(&*bytes).expect("an ELF file");
    let id = image.build_id().expect("notes").expect("a build-id");
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the debug file of `image` belongs in a directory like /usr/lib/debug.
fn place_by_build_id(directory: &Path, image: &Path) -> PathBuf {
    let id = build_id(image);
    let below = directory.join(".build-id").join(&id[..2]);
    fs::create_dir_all(&below).expect("a directory");
    below.join(format!("{}.debug", &id[2..]))
}

fn inspect(stuck: &Stuck, options: &[&str]) -> Run {
    let pid = stuck.pid().to_string();
    Run::pgpoke(["inspect", "--json", &pid].iter().chain(options))
}

/// What pgpoke tells of a backend stuck in the server's own code, and that it frees it.
fn stuck_and_freed(copy: &Copy, options: &[&str]) -> (Value, String) {
    stuck_and_freed_by(copy, |args| {
        let mut command = pgpoke();
        command.args(args).args(options);
        command
    })
}

fn stuck_and_freed_by(copy: &Copy, command: impl Fn(&[&str]) -> Command) -> (Value, String) {
    let server = copy.start();
    let stuck = server.stuck_on_fifo();
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let run = Run::of(command(&["inspect", "--json", &pid]));
    run.assert_code(0);
    let output = run.json();
    assert_eq!(output["stack_complete"], true, "{run}");
    for warning in warnings(&output) {
        run.assert_says(&format!("pgpoke: warning: {warning}\n"));
    }
    Run::of(command(&["interrupt", "--yes", &pid])).assert_code(0);
    stuck.assert_cancelled();
    server.assert_unharmed();
    (output, run.stderr)
}

/// The build with everything in one file: what the others have to equal.
fn reference(copy: &Copy) -> Value {
    let (output, _) = stuck_and_freed(copy, &[]);
    let told = told(&output, "/bin/postgres");
    assert!(told.iter().any(|f| f.inlined), "{told:#?}");
    // The C library's code to start a program came without.
    let mut ours = told.iter().filter(|f| f.function != "_start");
    assert!(ours.all(|f| f.line.is_some()), "{told:#?}");
    assert_eq!(warnings(&output), [""; 0]);
    output
}

#[track_caller]
fn assert_as_good(output: &Value, reference: &Value) {
    let (told, wanted) = (
        told(output, "/bin/postgres"),
        told(reference, "/bin/postgres"),
    );
    assert_eq!(told, wanted);
    assert_eq!(judged(output), judged(reference));
    assert_eq!(warnings(output), [""; 0]);
    let sources = sources(output, "/bin/postgres");
    assert!(sources.iter().any(|s| s == "debug-file"), "{sources:?}");
}

#[test]
fn debug_files_tell_what_the_image_told() {
    let copy = Copy::of(&built!(Installation::dwarf()));
    let postgres = copy.postgres();
    let reference = reference(&copy);

    // Beside the image.
    let debug = copy.path("bin/postgres.debug");
    split(&postgres, &debug);
    assert_as_good(&stuck_and_freed(&copy, &[]).0, &reference);
    // In .debug beside it.
    fs::create_dir(copy.path("bin/.debug")).unwrap();
    let hidden = copy.path("bin/.debug/postgres.debug");
    fs::rename(&debug, &hidden).unwrap();
    assert_as_good(&stuck_and_freed(&copy, &[]).0, &reference);
    // Below a directory for debug files, by its path and by its build-id.
    let directory = copy.path("debug");
    let option = format!("--debug-dir={}", text(&directory));
    let below = directory.join(postgres.strip_prefix("/").unwrap());
    fs::create_dir_all(below.parent().unwrap()).unwrap();
    let by_path = below.with_extension("debug");
    fs::rename(&hidden, &by_path).unwrap();
    assert_as_good(&stuck_and_freed(&copy, &[&option]).0, &reference);
    let by_id = place_by_build_id(&directory, &postgres);
    fs::rename(&by_path, &by_id).unwrap();
    assert_as_good(&stuck_and_freed(&copy, &[&option]).0, &reference);
    // And with nothing, there is less to tell: the above was not for nothing.
    let (output, _) = stuck_and_freed(&copy, &[]);
    let less = told(&output, "/bin/postgres");
    assert!(
        less.iter().all(|f| f.line.is_none() && !f.inlined),
        "{less:#?}"
    );
    assert_eq!(warnings(&output), [""; 0]);
    // Compressed.
    for way in ["zlib", "zstd"] {
        let packed = copy.path("packed");
        let compress = format!("--compress-debug-sections={way}");
        objcopy(&[&compress], &[&by_id, &packed]);
        assert!(fs::metadata(&packed).unwrap().len() < fs::metadata(&by_id).unwrap().len() / 2);
        fs::rename(&packed, &by_id).unwrap();
        assert_as_good(&stuck_and_freed(&copy, &[&option]).0, &reference);
        objcopy(&["--decompress-debug-sections"], &[&by_id]);
    }
}

#[test]
fn what_dwz_shares_is_found() {
    let copy = Copy::of(&built!(Installation::dwarf()));
    let reference = reference(&copy);
    let (postgres, psql) = (copy.postgres(), copy.path("bin/psql"));
    let debug = copy.path("bin/postgres.debug");
    // What only one file has is not moved, so there is a second one that has the same.
    let twin = copy.path("bin/twin.debug");
    objcopy(&["--only-keep-debug"], &[&postgres, &debug]);
    fs::copy(&debug, &twin).unwrap();
    let shared = copy.path("bin/shared.debug");
    let mut dwz = Command::new("dwz");
    dwz.args(["-m", text(&shared), "-M", "shared.debug"]);
    checked(dwz.args([&debug, &twin]));
    strip_and_link(&postgres, &debug);
    assert_as_good(&stuck_and_freed(&copy, &[]).0, &reference);
    // Another file in its place is refused, and what is lacking is said.
    let other = build_id(&psql);
    fs::copy(&psql, &shared).unwrap();
    let (output, _) = stuck_and_freed(&copy, &[]);
    let all = warnings(&output);
    assert!(all.iter().any(|w| w.contains(&other)), "{all:?}");
    assert!(all.iter().any(|w| w.contains("dwz")), "{all:?}");
    // A link to itself comes to an end.
    fs::remove_file(&shared).unwrap();
    let section = copy.path("link");
    let id = build_id(&debug);
    let id = (0..id.len() / 2).map(|i| u8::from_str_radix(&id[2 * i..2 * i + 2], 16).unwrap());
    let link: Vec<u8> = b"postgres.debug\0".iter().copied().chain(id).collect();
    fs::write(&section, link).unwrap();
    let update = format!("--update-section=.gnu_debugaltlink={}", text(&section));
    objcopy(&[&update], &[&debug]);
    objcopy(&["--remove-section=.gnu_debuglink"], &[&postgres]);
    strip_and_link(&postgres, &debug);
    let (output, _) = stuck_and_freed(&copy, &[]);
    assert!(warnings(&output).iter().any(|w| w.contains("dwz")));
}

#[test]
fn mini_debug_info_tells_names() {
    let copy = Copy::of(&built!(Installation::dwarf()));
    let postgres = copy.postgres();
    let reference = reference(&copy);
    let mini = copy.path("mini");
    objcopy(&["--only-keep-debug"], &[&postgres, &mini]);
    objcopy(&["--strip-debug"], &[&mini]);
    let mut xz = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).unwrap();
    xz.write_all(&fs::read(&mini).unwrap()).unwrap();
    let packed = copy.path("mini.xz");
    fs::write(&packed, xz.finish().unwrap()).unwrap();
    let add = format!("--add-section=.gnu_debugdata={}", text(&packed));
    objcopy(&["--strip-all", &add], &[&postgres]);
    let (output, _) = stuck_and_freed(&copy, &[]);
    let names = |output: &Value| -> Vec<String> {
        let frames = told(output, "/bin/postgres").into_iter();
        frames.filter(|f| !f.inlined).map(|f| f.function).collect()
    };
    assert_eq!(names(&output), names(&reference));
    let sources = sources(&output, "/bin/postgres");
    assert!(sources.iter().any(|s| s == "debug-data"), "{sources:?}");
    assert_eq!(judged(&output), judged(&reference));
}

/// Nothing was taken from a debug file, and what is said of one is about this file.
#[track_caller]
fn assert_refused(output: &Value, stderr: &str, file: &Path, words: &[&str]) {
    let told = told(output, "/bin/postgres");
    assert!(
        told.iter().all(|f| f.line.is_none() && !f.inlined),
        "{told:#?}"
    );
    let sources = sources(output, "/bin/postgres");
    assert!(
        sources.iter().all(|s| s == "dynsym" || s == "decoded"),
        "{sources:?}"
    );
    let all = warnings(output);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains(text(file)), "{all:?}");
    for word in words {
        assert!(all[0].contains(word), "{word:?} is not in {all:?}");
        assert!(stderr.contains(word), "{word:?} is not in {stderr}");
    }
}

#[test]
fn debug_files_of_other_builds_are_refused() {
    let copy = Copy::of(&built!(Installation::dwarf()));
    let other = built!(Installation::cassert());
    let postgres = copy.postgres();
    let debug = copy.path("bin/postgres.debug");
    split(&postgres, &debug);
    let (ours, theirs) = (build_id(&postgres), build_id(&other.program("postgres")));
    assert_ne!(ours, theirs);

    // Changed since the link was made.
    let mut file = fs::File::options().append(true).open(&debug).unwrap();
    file.write_all(b"\n").unwrap();
    drop(file);
    let (output, stderr) = stuck_and_freed(&copy, &[]);
    assert_refused(&output, &stderr, &debug, &["CRC-32", "bin/postgres wants"]);
    // Another build's, at the end of the link.
    objcopy(
        &["--only-keep-debug"],
        &[&other.program("postgres"), &debug],
    );
    let (output, stderr) = stuck_and_freed(&copy, &[]);
    assert_refused(&output, &stderr, &debug, &[&ours, &theirs]);
    // The same, and the checksum is right.
    objcopy(&["--remove-section=.gnu_debuglink"], &[&postgres]);
    strip_and_link(&postgres, &debug);
    let (output, stderr) = stuck_and_freed(&copy, &[]);
    assert_refused(&output, &stderr, &debug, &[&ours, &theirs]);
    // In the place of the right one.
    let directory = copy.path("debug");
    let by_id = place_by_build_id(&directory, &postgres);
    fs::rename(&debug, &by_id).unwrap();
    let option = format!("--debug-dir={}", text(&directory));
    let (output, stderr) = stuck_and_freed(&copy, &[&option]);
    assert_refused(&output, &stderr, &by_id, &[&ours, &theirs]);
    // What is no ELF file at all.
    fs::write(&by_id, "nothing of the kind").unwrap();
    let (output, stderr) = stuck_and_freed(&copy, &[&option]);
    assert_refused(
        &output,
        &stderr,
        &by_id,
        &["not a 64-bit little-endian ELF file"],
    );
}

#[test]
fn what_is_too_large_is_left_out_and_that_is_said() {
    let copy = Copy::of(&built!(Installation::dwarf()));
    let postgres = copy.postgres();
    let debug = copy.path("bin/postgres.debug");
    objcopy(&["--only-keep-debug"], &[&postgres, &debug]);
    let zeros = copy.path("zeros");
    let file = fs::File::create(&zeros).unwrap();
    file.set_len(300 << 20).unwrap();
    let add = format!("--add-section=.debug_addr={}", text(&zeros));
    objcopy(&[&add, "--compress-debug-sections=zlib"], &[&debug]);
    strip_and_link(&postgres, &debug);
    let (output, _) = stuck_and_freed(&copy, &[]);
    let told = told(&output, "/bin/postgres");
    assert!(told.iter().all(|f| f.line.is_none()), "{told:#?}");
    // Its names are small, and known before the stop.
    assert!(told.iter().any(|f| f.function == "exec_simple_query"));
    let all = warnings(&output);
    assert!(all.len() == 1 && all[0].contains("left out"), "{all:?}");
}

/// A server of debug files, which has those of `files` by build-id.
struct Debuginfod {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Debuginfod {
    fn start(files: Vec<(String, PathBuf)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        // Ends with the tests.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(stream.try_clone().expect("a copy")).lines();
                let request = lines.next().and_then(Result::ok).unwrap_or_default();
                while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
                let wanted =
                    |id: &str| request.starts_with(&format!("GET /buildid/{id}/debuginfo "));
                let file = files.iter().find(|(id, _)| wanted(id));
                seen.lock().expect("requests").push(request.clone());
                let body = file.map(|(_, path)| fs::read(path).expect("a debug file"));
                let status = if body.is_some() {
                    "200 OK"
                } else {
                    "404 Not Found"
                };
                let body = body.unwrap_or_default();
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
                let _ = write!(stream, "{head}Connection: close\r\n\r\n");
                let _ = stream.write_all(&body);
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("requests").clone()
    }

    fn command(&self, cache: &Path, args: &[&str]) -> Command {
        let mut command = pgpoke();
        command.args(args);
        command.env("DEBUGINFOD_URLS", &self.url);
        command.env("DEBUGINFOD_CACHE_PATH", cache);
        command.env("no_proxy", "*");
        command
    }
}

#[test]
fn debuginfod_is_asked_only_when_it_is_named() {
    if Command::new("debuginfod-find")
        .arg("--version")
        .output()
        .is_err()
    {
        skip!("no debuginfod-find: run scripts/install-deps.sh");
    }
    let copy = Copy::of(&built!(Installation::dwarf()));
    let other = built!(Installation::cassert());
    let postgres = copy.postgres();
    let reference = reference(&copy);
    let debug = copy.path("kept.debug");
    objcopy(&["--only-keep-debug"], &[&postgres, &debug]);
    objcopy(&["--strip-all"], &[&postgres]);
    let id = build_id(&postgres);
    let honest = Debuginfod::start(vec![(id.clone(), debug)]);

    for urls in [None, Some(""), Some(" ")] {
        let (output, _) = stuck_and_freed_by(&copy, |args| {
            let mut command = honest.command(&copy.path("unused"), args);
            match urls {
                None => command.env_remove("DEBUGINFOD_URLS"),
                Some(urls) => command.env("DEBUGINFOD_URLS", urls),
            };
            command
        });
        assert!(
            told(&output, "/bin/postgres")
                .iter()
                .all(|f| f.line.is_none())
        );
        assert_eq!(warnings(&output), [""; 0]);
    }
    assert_eq!(honest.requests(), [""; 0]);

    let cache = copy.path("cache");
    let (output, _) = stuck_and_freed_by(&copy, |args| honest.command(&cache, args));
    assert_as_good(&output, &reference);
    let requests = honest.requests();
    assert!(requests[0].contains(&id), "{requests:?}");
    // The server's executable: not the C library, nor whatever else is mapped.
    assert!(requests.iter().all(|r| r.contains(&id)), "{requests:?}");

    // One that gives out another file.
    let wrong = copy.path("wrong.debug");
    objcopy(
        &["--only-keep-debug"],
        &[&other.program("postgres"), &wrong],
    );
    let liar = Debuginfod::start(vec![(id.clone(), wrong)]);
    let (output, stderr) = stuck_and_freed_by(&copy, |args| liar.command(&copy.path("lies"), args));
    let theirs = build_id(&other.program("postgres"));
    assert_refused(&output, &stderr, &copy.path("lies"), &[&id, &theirs]);

    // One that is not there.
    let absent = Debuginfod {
        url: "http://127.0.0.1:1".into(),
        requests: Arc::default(),
    };
    let (output, _) = stuck_and_freed_by(&copy, |args| absent.command(&copy.path("none"), args));
    let all = warnings(&output);
    assert!(all.len() == 1 && all[0].contains("debuginfod"), "{all:?}");
}

#[test]
fn debuginfod_that_is_not_installed_is_missed() {
    let copy = Copy::of(&built!(Installation::dwarf()));
    objcopy(&["--strip-all"], &[&copy.postgres()]);
    let (output, _) = stuck_and_freed_by(&copy, |args| {
        let mut command = pgpoke();
        command
            .args(args)
            .env("DEBUGINFOD_URLS", "http://127.0.0.1:1");
        command.env("PATH", copy.path("empty"));
        command
    });
    let all = warnings(&output);
    assert!(
        all.len() == 1 && all[0].contains("cannot be run"),
        "{all:?}"
    );
}

/// Changes who runs a command.
type AsUser = fn(Command) -> Command;

/// Whoever may look into a backend: root, and the server's own user, who may not open what is mapped.
fn lookers() -> Vec<(&'static str, AsUser)> {
    if is_root() {
        vec![("root", |c| c), ("the server's user", as_server_user)]
    } else {
        vec![("the server's user", |c| c)]
    }
}

fn command(look: AsUser, args: &[&str]) -> Command {
    let mut command = pgpoke();
    command.args(args);
    look(command)
}

#[test]
fn an_executable_that_was_replaced_or_deleted_is_known_all_the_same() {
    let dwarf = built!(Installation::dwarf());
    let other = built!(Installation::cassert());
    let copy = Copy::of(&dwarf);
    let reference = reference(&copy);
    for (who, look) in lookers() {
        for replaced in [true, false] {
            let server = copy.start();
            let stuck = server.stuck_on_fifo();
            let pid = stuck.pid().to_string();
            stuck.prove_stuck(How::Cancel);
            // As a package manager does it.
            let postgres = copy.postgres();
            if replaced {
                let new = copy.path("bin/postgres.new");
                fs::copy(other.program("postgres"), &new).unwrap();
                fs::rename(new, &postgres).unwrap();
            } else {
                fs::remove_file(&postgres).unwrap();
            }
            let run = Run::of(command(look, &["inspect", "--json", &pid]));
            run.assert_code(0);
            let output = run.json();
            assert_eq!(
                told(&output, "/bin/postgres"),
                told(&reference, "/bin/postgres"),
                "{who}"
            );
            assert_eq!(judged(&output), judged(&reference), "{who}");
            let files = &output["replaced_files"];
            assert_eq!(files[0]["path"], text(&postgres), "{run}");
            assert_eq!(files[0]["replaced"], replaced, "{run}");
            assert_eq!(files[0]["executable"], true, "{run}");
            assert_eq!(files[0]["read_from"], "file", "{run}");
            let what = if replaced { "replaced" } else { "deleted" };
            Run::of(command(look, &["inspect", &pid])).assert_says(&format!(
                "{} was {what} since the server started: it still runs the old one",
                text(&postgres)
            ));
            Run::of(command(look, &["interrupt", "--yes", &pid])).assert_code(0);
            stuck.assert_cancelled();
            server.assert_unharmed();
            drop(stuck);
            drop(server);
            fs::copy(dwarf.program("postgres"), &postgres).unwrap();
        }
    }
}

/// What becomes of a library under a running server.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Deleted,
    OtherBuild,
    Truncated,
    Fifo,
    Symlink,
    /// The same build once more: another inode, and the same build-id.
    Reinstalled,
}

impl Fate {
    const ALL: [Self; 6] = [
        Self::Deleted,
        Self::OtherBuild,
        Self::Truncated,
        Self::Fifo,
        Self::Symlink,
        Self::Reinstalled,
    ];

    fn befall(self, library: &Path, server: &Server) {
        let new = library.with_extension("new");
        let old = fs::read(library).unwrap();
        match self {
            Self::Deleted => return fs::remove_file(library).unwrap(),
            Self::OtherBuild => {
                let plpgsql = server.installation().bindir.join("../lib/plpgsql.so");
                fs::copy(plpgsql, &new).unwrap();
            }
            Self::Truncated => fs::write(&new, &old[..4096]).unwrap(),
            Self::Fifo => drop(checked(Command::new("mkfifo").arg(&new))),
            Self::Symlink => symlink("/etc/passwd", &new).unwrap(),
            Self::Reinstalled => fs::write(&new, &old).unwrap(),
        }
        fs::rename(new, library).unwrap();
    }
}

#[test]
fn a_library_that_was_replaced_or_deleted_is_known_all_the_same() {
    let installation = built!(Installation::dwarf());
    for (who, look) in lookers() {
        for fate in Fate::ALL {
            let builder = Server::builder().installation(installation.clone());
            let server = builder.start();
            server.install_testext();
            let stuck = server.stuck("SELECT pgpoke_spin()");
            let deep = server.stuck("SELECT pgpoke_cplusplus()");
            stuck.prove_stuck(How::Cancel);
            let before = inspect(&stuck, &[]).assert_code(0).json();
            let before_deep = inspect(&deep, &["--passive"]).json();

            let library = server.directory().join("pgpoke_test.so");
            fate.befall(&library, &server);
            let what = format!("{who}, {fate:?}");
            let pid = stuck.pid().to_string();
            let run = Run::of(command(look, &["inspect", "--json", &pid]));
            run.assert_code(0);
            let output = run.json();
            assert_eq!(judged(&output), judged(&before), "{what}\n{run}");
            assert_eq!(output["stack_complete"], true, "{what}\n{run}");
            assert_eq!(warnings(&output), [""; 0], "{what}");
            let files = &output["replaced_files"];
            assert_eq!(files[0]["path"], text(&library), "{what}\n{run}");
            let deleted = matches!(fate, Fate::Deleted);
            assert_eq!(files[0]["replaced"], !deleted, "{what}\n{run}");
            let from_file = who == "root" || matches!(fate, Fate::Reinstalled);
            let from = if from_file { "file" } else { "memory" };
            assert_eq!(files[0]["read_from"], from, "{what}\n{run}");
            let frames = told(&output, "/pgpoke_test.so");
            if from_file {
                // The same loop, though not at the same line of it.
                let names = |frames: Vec<Told>| -> Vec<String> {
                    assert!(
                        frames.iter().all(|f| f.line.is_some()),
                        "{what}: {frames:#?}"
                    );
                    frames.into_iter().map(|f| f.function).collect()
                };
                let before = names(told(&before, "/pgpoke_test.so"));
                assert_eq!(names(frames), before, "{what}");
            } else {
                assert!(
                    frames.iter().any(|f| f.function == "pgpoke_spin"),
                    "{what}\n{run}"
                );
            }
            // C++ between: whether a jump would cross it is told by tables of the library's own.
            let deep_pid = deep.pid().to_string();
            let after = Run::of(command(
                look,
                &["inspect", "--passive", "--json", &deep_pid],
            ));
            assert_eq!(
                judged(&after.json()),
                judged(&before_deep),
                "{what}\n{after}"
            );
            let addresses = |output: &Value| -> usize {
                let frames = output["stack"].as_array().expect("a stack").iter();
                frames.filter(|f| f["inlined"] == false).count()
            };
            assert_eq!(addresses(&after.json()), addresses(&before_deep), "{what}");

            Run::of(command(look, &["interrupt", "--yes", &pid])).assert_code(0);
            stuck.assert_cancelled();
            server.assert_unharmed();
        }
    }
}

#[test]
fn an_extension_tells_lines_from_its_debug_file() {
    let installation = built!(Installation::dwarf());
    let look = |separate: bool| {
        let server = Server::builder().installation(installation.clone()).start();
        server.install_testext_made(|library| {
            if separate {
                split(library, &library.with_extension("so.debug"));
            }
        });
        let stuck = server.stuck("SELECT pgpoke_sleep()");
        stuck.prove_stuck(How::Cancel);
        let output = inspect(&stuck, &[]).assert_code(0).json();
        let pid = stuck.pid().to_string();
        Run::pgpoke(["interrupt", "--yes", &pid]).assert_code(0);
        stuck.assert_cancelled();
        server.assert_unharmed();
        told(&output, "/pgpoke_test.so")
    };
    let whole = look(false);
    assert!(
        whole.iter().all(|f| f.line.is_some()) && !whole.is_empty(),
        "{whole:#?}"
    );
    assert_eq!(look(true), whole);
}

#[test]
fn the_stripped_copy_has_no_static_symbols() {
    // What the other tests take for granted of their tools.
    let copy = Copy::of(&built!(Installation::dwarf()));
    let postgres = copy.postgres();
    split(&postgres, &copy.path("bin/postgres.debug"));
    let bytes = fs::read(&postgres).unwrap();
    let image = object::File::parse(&*bytes).unwrap();
    assert_eq!(image.symbols().count(), 0);
    assert!(image.gnu_debuglink().unwrap().is_some());
    let exported = |s: object::Symbol| s.name() == Ok("exec_simple_query");
    assert!(!image.dynamic_symbols().any(exported));
}
