//! `fence` and `unfence`: who is named in one annotation. These members do not lead for as long as they are named;
//! those of MySQL and Redis are held isolated.

use anyhow::Result;
use crds::annotations::FENCED;

use crate::access::Access;
use crate::request;

/// Adds a member.
pub async fn fence(access: &Access, member: &str) -> Result<()> {
    let cluster = access.annotate(FENCED, |cluster| request::fence(cluster, member)).await?;
    println!("fenced: {}", said(&request::fenced(&cluster)));
    if cluster.primary.as_deref() == Some(member) {
        println!("{member} is the primary: {}", request::fenced_primary(cluster.engine));
    }
    Ok(())
}

/// Removes a member, or all.
pub async fn unfence(access: &Access, member: Option<&str>) -> Result<()> {
    let cluster = access.annotate(FENCED, |cluster| request::unfence(cluster, member)).await?;
    println!("fenced: {}", said(&request::fenced(&cluster)));
    Ok(())
}

fn said(all: &std::collections::BTreeSet<String>) -> String {
    if all.is_empty() { "nobody".to_owned() } else { all.iter().cloned().collect::<Vec<_>>().join(", ") }
}
