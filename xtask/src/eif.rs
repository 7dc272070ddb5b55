//! `cargo xtask eif`: the example enclave as an image file for enclaves (EIF), with its measurements, and whether a second
//! build from another folder has the same ones.

mod arguments;
mod binary;
mod measure;

use crate::ci::target_folder;
use crate::engine::Engine;
use crate::image::NotTested;
use crate::run;
use arguments::{Arguments, USAGE};
use enclave_bridge_lab::nitro::Image;
use enclave_bridge_lab::ramdisk::{self, Init};
use enclave_bridge_lab::{Kernel, LabError};
use measure::Measurements;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the console is, that a panic ends the machine, and that the processor's own randomness counts.
const OWN_COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t random.trust_cpu=on";

/// The program in the image.
const PROGRAM: &str = "simple-enclave";

/// The profile for images that are compared or tried, and not shipped.
pub(crate) const QUICK_PROFILE: &str = "eif-check";

/// What boots the program.
#[derive(Debug, Clone)]
pub(crate) enum Boots {
    /// Debian's kernel of that series and our own init: for machines of QEMU.
    Debian(String),
    /// What was given: AWS's, for Nitro.
    Given { kernel: PathBuf, init: PathBuf, nsm: Option<PathBuf>, command_line: PathBuf },
}

/// What came out of one build.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) image: Image,
    binary: PathBuf,
    measurements: Measurements,
}

impl From<LabError> for NotTested {
    fn from(error: LabError) -> NotTested {
        if error.is_missing() { NotTested::Skipped(error.to_string()) } else { NotTested::Failed(error.to_string()) }
    }
}

/// The command.
pub(crate) fn main(words: &[&str]) -> ExitCode {
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\nusage: cargo xtask eif {USAGE}");
            return ExitCode::from(64);
        }
    };
    match made(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever asks for an image wants it: none is no success.
        Err(NotTested::Skipped(reason) | NotTested::Failed(reason)) => {
            eprintln!("eif: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn made(arguments: &Arguments) -> Result<(), NotTested> {
    if arguments.twice {
        twice(&arguments.boots, &arguments.profile)?;
    } else {
        once(&arguments.boots, &arguments.profile)?;
    }
    if arguments.image {
        let engine = Engine::find().map_err(NotTested::Skipped)?;
        from_scratch(&engine, &arguments.profile)?;
    }
    Ok(())
}

/// For `cargo xtask ci`: two builds with the measurements compared, and the program as an image FROM scratch where there is
/// an engine. What of it was not tried is returned.
pub(crate) fn ci() -> Result<Option<String>, NotTested> {
    twice(&Boots::newest(), QUICK_PROFILE)?;
    match Engine::find() {
        Ok(engine) => from_scratch(&engine, QUICK_PROFILE).map(|()| None).map_err(NotTested::Failed),
        Err(reason) => Ok(Some(format!("the image FROM scratch: {reason}"))),
    }
}

impl Boots {
    /// Debian's newest.
    pub(crate) fn newest() -> Boots {
        let newest = enclave_bridge_lab::kernel::SERIES.last().map_or("", |(series, _)| series);
        Boots::Debian(newest.to_owned())
    }
}

/// One build, with its measurements printed.
pub(crate) fn once(boots: &Boots, profile: &str) -> Result<Made, NotTested> {
    let builder = Builder::new(boots, profile)?;
    let made = builder.make(&run::root(), "first")?;
    builder.show(&made)?;
    Ok(made)
}

/// Two builds from two folders into two folders; what differs is the error.
fn twice(boots: &Boots, profile: &str) -> Result<(), NotTested> {
    let builder = Builder::new(boots, profile)?;
    let first = builder.make(&run::root(), "first")?;
    builder.show(&first)?;
    let copy = builder.folder.join("second/source");
    binary::copy_sources(&copy)?;
    let second = builder.make(&copy, "second")?;
    let mut different = first.measurements.different(&second.measurements);
    for (name, of) in [("the binary", binary_of as fn(&Made) -> &Path), ("the image file", eif_of)] {
        if measure::digest(of(&first))? != measure::digest(of(&second))? {
            different.push(format!("{name} ({} and {})", of(&first).display(), of(&second).display()));
        }
    }
    if !different.is_empty() {
        return Err(NotTested::Failed(format!("two builds of the same sources differ in {}", different.join(", "))));
    }
    println!("equal in two builds from two folders: the binary, the image file, PCR0, PCR1, PCR2");
    Ok(())
}

fn binary_of(made: &Made) -> &Path {
    &made.binary
}

fn eif_of(made: &Made) -> &Path {
    &made.image.eif
}

/// Everything but the program, found before anything is built.
struct Builder {
    profile: String,
    eif_build: PathBuf,
    kernel: PathBuf,
    kernel_name: String,
    command_line: String,
    boots: Boots,
    debian: Option<Kernel>,
    folder: PathBuf,
}

impl Builder {
    fn new(boots: &Boots, profile: &str) -> Result<Builder, NotTested> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err(NotTested::Skipped("the image is built on Linux, for x86-64".to_owned()));
        }
        let target = target_folder()?;
        let (kernel, kernel_name, command_line, debian) = match boots {
            Boots::Debian(series) => {
                let debian = Kernel::fetch(series, &target.join("lab/kernels"))?;
                // Named here already if it is missing.
                enclave_bridge_lab::program::find("busybox")?;
                (debian.image(), debian.version.clone(), OWN_COMMAND_LINE.to_owned(), Some(debian))
            }
            Boots::Given { kernel, command_line, .. } => {
                let text = std::fs::read_to_string(command_line);
                let text = text.map_err(|error| format!("{}: {error}", command_line.display()))?;
                // eif_build's own words for it are a panic.
                std::fs::File::open(kernel).map_err(|error| format!("{}: {error}", kernel.display()))?;
                (kernel.clone(), kernel.display().to_string(), text.trim().to_owned(), None)
            }
        };
        Ok(Builder {
            profile: profile.to_owned(),
            eif_build: measure::eif_build(&target)?,
            kernel,
            kernel_name,
            command_line,
            boots: boots.clone(),
            debian,
            // A profile of its own: an image to ship is not replaced by one that was only tried.
            folder: target.join("eif").join(profile),
        })
    }

    /// Builds the program from `sources` and the image around it, in a folder of that name.
    fn make(&self, sources: &Path, name: &str) -> Result<Made, NotTested> {
        let folder = self.folder.join(name);
        let built = binary::build(sources, &folder.join("build"), PROGRAM, &self.profile)?;
        // Alone in a folder: what a builder of images gets as its context.
        let context = folder.join("image");
        std::fs::create_dir_all(&context).map_err(|error| format!("{}: {error}", context.display()))?;
        let binary = context.join(PROGRAM);
        std::fs::copy(&built, &binary).map_err(|error| format!("{}: {error}", built.display()))?;
        let ramdisks = vec![folder.join("bootstrap.cpio"), folder.join("application.cpio")];
        if let [bootstrap, application] = ramdisks.as_slice() {
            let init = match (&self.boots, &self.debian) {
                (Boots::Given { init, nsm, .. }, _) => Init::Given { init, nsm: nsm.as_deref() },
                (Boots::Debian(_), Some(kernel)) => Init::Own(kernel),
                (Boots::Debian(series), None) => return Err(format!("no kernel {series}").into()),
            };
            ramdisk::bootstrap(init, bootstrap)?;
            ramdisk::application(&binary, application)?;
        }
        let eif = folder.join(format!("{PROGRAM}.eif"));
        let image = Image { eif, kernel: self.kernel.clone(), command_line: self.command_line.clone(), ramdisks };
        let measurements = measure::assemble(&self.eif_build, &image, PROGRAM)?;
        Ok(Made { image, binary, measurements })
    }

    fn show(&self, made: &Made) -> Result<(), String> {
        println!("binary  {} (profile {})", made.binary.display(), self.profile);
        println!("        sha256 {}", measure::digest(&made.binary)?);
        println!("image   {}", made.image.eif.display());
        println!("        sha256 {}", measure::digest(&made.image.eif)?);
        println!("kernel  {}", self.kernel_name);
        if self.debian.is_some() {
            println!(
                "        with an init of our own: for QEMU, not shown to boot on Nitro (--kernel, --init, --nsm, --cmdline)"
            );
        }
        print!("{}", made.measurements);
        Ok(())
    }
}

/// The program as the only file of a container image, and the same one.
fn from_scratch(engine: &Engine, profile: &str) -> Result<(), String> {
    let folder = target_folder()?.join("eif").join(profile);
    let context = folder.join("first/image");
    let tag = format!("simple-enclave-ci:{}", std::process::id());
    let dockerfile = run::root().join("examples/simple-enclave/Dockerfile");
    let build = engine.docker(["build", "--target", "prebuilt", "--tag", &tag, "--file"]);
    build.args([dockerfile.as_path(), context.as_path()]).capture()?;
    let container = engine.docker(["create", "--network", "none", &tag]).capture();
    let compared = container.and_then(|container| {
        let container = container.trim();
        let copied = folder.join("from-scratch");
        let copy = engine.docker(["cp".to_owned(), format!("{container}:/{PROGRAM}")]).args([&copied]).capture();
        engine.docker(["rm", "--force", container]).capture()?;
        copy?;
        if measure::digest(&copied)? == measure::digest(&context.join(PROGRAM))? {
            println!("an image FROM scratch holds the same program");
            Ok(())
        } else {
            Err(format!("the image's /{PROGRAM} is not {}", context.join(PROGRAM).display()))
        }
    });
    engine.docker(["image", "rm", "--force", &tag]).capture()?;
    compared
}
