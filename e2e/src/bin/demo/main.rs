//! `demo`: what Understudy is for, shown on a real Kubernetes: the lab of this machine, or the cluster of a kube context.
//!
//! It does what a reader would do by hand, says before each step what there is to see, and ends with a count of rows: every one that
//! MySQL acknowledged must be there. How the cluster is reached is in [`place`], the rows are in [`rows`].

mod place;
mod rows;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use e2e::ui::Ui;

use place::{Door, Place};
use rows::{Writer, count};

/// Install Understudy, make a MySQL cluster, do to it what happens to clusters, and count its rows.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Kube context to use. Without it: the lab on this machine, which `lab up` starts.
    #[arg(long)]
    context: Option<String>,
    /// Image of operator and sidecar. Default: in the lab the one built from this checkout, elsewhere the published one.
    #[arg(long)]
    image: Option<String>,
    /// Image of MySQL. Default: in the lab the one it built, elsewhere the example's.
    #[arg(long)]
    mysql_image: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let (arguments, ui) = (Arguments::parse(), Ui::default());
    match demo(arguments, &ui).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.say(&format!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn demo(arguments: Arguments, ui: &Ui) -> Result<()> {
    let place = match arguments.context {
        Some(context) => Place::context(&context, arguments.image, arguments.mysql_image).await?,
        None => Place::lab(arguments.image, arguments.mysql_image).await?,
    };
    let shown = story(&place, ui).await;
    if shown.is_err() {
        ui.say(&format!("\nEverything is left as it is. Look around:\n{}", place.look_around()));
    }
    shown
}

async fn story(place: &Place, ui: &Ui) -> Result<()> {
    let chapter = |number: u8, title: &str, see: &str| ui.say(&format!("\n{number}/8  {title}\n     {see}"));

    chapter(1, "Install the operator with Helm.", "One Deployment, one image. It runs no database itself.");
    ui.step("helm upgrade --install understudy charts/understudy", place.install()).await?;

    chapter(
        2,
        "Apply docs/examples/mysqlcluster.yaml.",
        "The first member makes an empty database; each other one clones from the one before it and follows the primary.",
    );
    place.begin(ui).await?;
    let cluster = place.healthy(3, None, ui).await?;
    let primary = cluster.status.and_then(|status| status.primary).context("a healthy cluster has a primary")?;

    chapter(3, "Write rows through shop-primary.", "A client writes from now to the end, one row after the other, over TLS.");
    let writer = Writer::start(place.open(Door::Primary).await?);
    let some = writer.reach(100).await?;
    ui.say(&format!("     {some} rows acknowledged so far: {primary} has them, and a replica has received each of them."));

    chapter(4, "Read them through shop-read.", "Every member that is up to date answers there.");
    let (member, found) = count(place.open(Door::Read).await?, some).await?;
    ui.say(&format!("     {member} answered and holds {found} rows."));

    chapter(5, "Scale to five.", "shop-3 clones from shop-2, shop-4 from shop-3, while rows are written.");
    place.scale(5).await?;
    place.healthy(5, None, ui).await?;
    let so_far = writer.acknowledged();
    let (member, found) = count(place.open(Door::Member("shop-4".into())).await?, so_far).await?;
    ui.say(&format!("     {member}, new a moment ago, holds {found} rows, the old ones too."));

    chapter(
        6,
        "Delete the primary's pod.",
        "It hands over to another member before it dies, comes back on its volume and follows. Writes go on.",
    );
    let lost = place.lose_pod(&primary).await?;
    let cluster = place.healthy(5, Some(&lost), ui).await?;
    let primary = cluster.status.and_then(|status| status.primary).context("a healthy cluster has a primary")?;
    writer.reach(writer.acknowledged() + 20).await?;
    ui.say(&format!("     {primary} is the primary. The longest wait of the writer was {:.1} s.", writer.longest_wait().as_secs_f32()));

    chapter(
        7,
        &format!("Lose the volume of {primary}, the primary."),
        "Its disk is gone for good. A member that holds every acknowledged row takes over; the old primary comes back empty and clones.",
    );
    let lost = place.lose_volume(&primary).await?;
    let cluster = place.healthy(5, Some(&lost), ui).await?;
    let heir = cluster.status.and_then(|status| status.primary).context("a healthy cluster has a primary")?;
    writer.reach(writer.acknowledged() + 20).await?;
    ui.say(&format!("     {heir} is the primary now."));

    chapter(8, "Count.", "Every acknowledged row must be in every member.");
    let written = writer.stop().await?;
    for ordinal in 0..5 {
        let member = format!("shop-{ordinal}");
        let (_, found) = count(place.open(Door::Member(member.clone())).await?, written).await?;
        ui.say(&format!("     {member}: {found} of {written}"));
        if found < written {
            bail!("{member} lost {} acknowledged rows; this must not happen, please report it", written - found);
        }
    }
    ui.say(&format!("\nNo acknowledged row was lost. Look around:\n{}\nTear down:\n{}", place.look_around(), place.tear_down()));
    Ok(())
}
