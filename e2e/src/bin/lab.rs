//! `lab`: a real Kubernetes on this machine, up and down, and ways to look into it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use e2e::clients::{self, Library};
use e2e::dirs::Dirs;
use e2e::ui::Ui;
use e2e::{Lab, binaries, cluster, host, images, provisioner, volumes};

/// A real Kubernetes of several nodes on this machine, with a real MySQL to run in it.
#[derive(Parser)]
#[command(
    version,
    after_help = "State: $UNDERSTUDY_LAB (default /var/tmp/understudy-lab). Cache: $UNDERSTUDY_CACHE (default ~/.cache/understudy)."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the lab, or continue a start that was interrupted. Needs root.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 3)]
        nodes: usize,
    },
    /// Stop the lab and remove every trace of it. Needs root.
    Down,
    /// What runs.
    Status,
    /// Build the images and the clients of tests, and load the images if the lab is up.
    Images,
    /// Import an OCI archive into every node.
    Load {
        /// The archive.
        image: PathBuf,
    },
    /// Make pre-provisioned volumes of class lab-static.
    Volumes {
        /// How many there shall be.
        count: usize,
        /// The size of each.
        #[arg(long, default_value = "1Gi")]
        size: String,
    },
    /// Show a component's log: etcd, apiserver, controller-manager, scheduler, proxy, coredns, provisioner, containerdN, kubeletN.
    Logs {
        /// The component.
        component: String,
        /// Go on as it grows.
        #[arg(short, long)]
        follow: bool,
    },
    /// Run kubectl against the lab.
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run helm against the lab.
    #[command(disable_help_flag = true)]
    Helm {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Serve dynamic volumes; `up` starts this.
    #[command(hide = true)]
    Provisioner {
        #[arg(long)]
        kubeconfig: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    // kube reports every refused connection as an error; waiting for the API server is made of those.
    let filter = tracing_subscriber::EnvFilter::new("info,kube_client=off");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    let (dirs, ui) = (Dirs::from_env()?, Ui::default());
    match command {
        Command::Up { nodes } => cluster::up(&dirs, nodes, &ui).await,
        Command::Down => cluster::down(&dirs, &ui).await,
        Command::Status => {
            println!("{}", cluster::status(&dirs).await?);
            Ok(())
        }
        Command::Images => {
            host::install_packages(&ui).await?;
            for library in [Library::GoRedis, Library::RedisPy, Library::IoRedis] {
                clients::program(&dirs, &ui, library).await?;
            }
            let mut all = images::base(&dirs, &ui).await?;
            all.extend(images::ours(&dirs, &ui).await?);
            for image in &all {
                ui.say(&format!("{}: {}", image.names.join(", "), image.archive.display()));
            }
            images::load(&dirs, &all, &ui).await
        }
        Command::Load { image } => {
            Lab::attach_in(&dirs).await?;
            images::load(&dirs, &[images::from_archive(&image).await?], &ui).await
        }
        Command::Volumes { count, size } => {
            let names = volumes::make_static(&Lab::attach_in(&dirs).await?, count, &size).await?;
            ui.say(&names.join("\n"));
            Ok(())
        }
        Command::Logs { component, follow } => {
            let log = dirs.log(&component);
            if !log.exists() {
                bail!("no log of {component}; `lab logs --help` lists the components");
            }
            become_program(std::process::Command::new("tail").args(["-n", "+1"]).args(follow.then_some("-F")).arg(log))
        }
        Command::Kubectl { arguments } => {
            Lab::attach_in(&dirs).await?;
            let kube = binaries::kube_path(&dirs);
            become_program(std::process::Command::new(kube).arg("kubectl").args(arguments).env("KUBECONFIG", dirs.kubeconfig()))
        }
        Command::Helm { arguments } => {
            // Lint and template need no cluster; what does need one says so itself.
            let helm = binaries::helm(&dirs, &ui).await?;
            become_program(std::process::Command::new(helm).args(arguments).env("KUBECONFIG", dirs.kubeconfig()))
        }
        Command::Provisioner { kubeconfig } => {
            let lab = kubeconfig.parent().context("the kubeconfig lies in the lab's directory")?;
            provisioner::run(Lab::attach_in(&Dirs { lab: lab.to_owned(), ..dirs }).await?.client().clone(), lab.to_owned()).await
        }
    }
}

/// The program takes this process's place, so that its terminal, signals and exit status are the user's own.
fn become_program(command: &mut std::process::Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("cannot run {:?}", command.get_program()))
}
