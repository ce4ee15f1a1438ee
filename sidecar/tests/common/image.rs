//! Real servers without containers: the lab's image, unpacked once into the cache, and its programs run by the loader and with the libraries
//! of their own system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root file system that a variable names, or the one of the lab's image `name-*.tar`, unpacked into the cache.
pub fn root(name: &str, variable: &str) -> PathBuf {
    if let Some(root) = std::env::var_os(variable) {
        return root.into();
    }
    let cache = std::env::var_os("UNDERSTUDY_CACHE")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/understudy")))
        .expect("UNDERSTUDY_CACHE or HOME");
    let archive = fs::read_dir(cache.join("images"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}-"))));
    assert!(
        archive.is_some(),
        "no image {name} in the cache: run `cargo run -p e2e --bin lab -- images`, or set {variable} to a root file system with it"
    );
    let archive = archive.unwrap();
    let root = cache.join("roots").join(archive.file_stem().unwrap());
    if !root.exists() {
        unpack(&archive, &root);
    }
    root
}

/// Makes a program of a root file system callable as `DIR/NAME`: it needs the libraries of its own system. `first` is shell that runs before.
pub fn wrapper(dir: &Path, root: &Path, program: &str, libraries: &[&str], first: &str) -> PathBuf {
    let name = Path::new(program).file_name().unwrap();
    let root = root.display().to_string();
    let paths: Vec<_> = ["usr/lib/x86_64-linux-gnu"].iter().chain(libraries).map(|path| format!("{root}/{path}")).collect();
    let text = format!(
        "#!/bin/sh\n{first}exec {root}/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path {} {root}/{program} \"$@\"\n",
        paths.join(":")
    );
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn unpack(archive: &Path, root: &Path) {
    let draft = root.with_extension(format!("draft-{}", std::process::id()));
    let image = draft.join("image");
    fs::create_dir_all(&image).unwrap();
    let tar = |arguments: &[&str], into: &Path| {
        let done = Command::new("tar").arg("-C").arg(into).args(arguments).status().unwrap();
        assert!(done.success(), "tar {arguments:?}");
    };
    tar(&["-xf", &archive.to_string_lossy()], &image);
    let json = |path: PathBuf| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |digest: &serde_json::Value| image.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
    let manifest = json(blob(&json(image.join("index.json"))["manifests"][0]["digest"]));
    let files = draft.join("root");
    fs::create_dir_all(&files).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        tar(&["--exclude=dev/*", "-xf", &blob(&layer["digest"]).to_string_lossy()], &files);
    }
    // Another test process may have been faster: its tree is as good.
    let _ = fs::rename(&files, root);
    fs::remove_dir_all(&draft).unwrap();
}
