//! Real database servers, taken from Debian's packages and laid out like the official images: uid 999 is the server's user, its programs are
//! in the path, and it has no configuration of its own.

use std::fs;

use anyhow::{Context, Result};

use super::{Image, MYSQL, MYSQL_B, REDIS, REDIS_B, VALKEY, build};
use crate::binaries::{digest, fresh_dir};
use crate::dirs::Dirs;
use crate::run;
use crate::ui::Ui;

/// What differs between the servers.
struct Server {
    /// As people write it.
    title: &'static str,
    /// Its names; the first one's part after the slash names the archive.
    names: &'static [&'static str],
    suite: &'static str,
    packages: &'static str,
    /// Who uid 999 is.
    user: &'static str,
    /// Says the version, and what it must say: the suite may have gone on.
    version: (&'static str, &'static str),
    /// Runs inside the unpacked system (`$1`), after [`RECIPE`]: nothing stays that the server does not need.
    recipe: &'static str,
    /// After the system was added.
    dockerfile: &'static str,
}

/// The same for every server: its user gets the number of the official image, and what nobody reads goes.
const RECIPE: &str = r#"
set -eu
chroot "$1" sh -eu -c '
  group=$(getent group 999 | cut -d: -f1); [ -z "$group" ] || [ "$group" = USER ] || groupdel "$group"
  user=$(getent passwd 999 | cut -d: -f1); [ -z "$user" ] || [ "$user" = USER ] || userdel "$user"
  groupmod -g 999 USER
  usermod -u 999 -g 999 USER
  PROGRAM --version | grep -q " VERSION"'
rm -rf "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/locale "$1"/usr/share/perl "$1"/usr/lib/x86_64-linux-gnu/perl
"#;

const PATH: &str = "FROM scratch\nADD rootfs.tar /\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n";

const MYSQL_SERVER: Server = Server {
    title: "MySQL",
    names: &[MYSQL, MYSQL_B],
    suite: "sid",
    packages: "mysql-server",
    user: "mysql",
    version: ("mysqld", r"9\.7\."),
    recipe: r#"
rm -rf "$1"/etc/mysql "$1"/etc/my.cnf "$1"/var/lib/mysql "$1"/var/lib/mysql-upgrade "$1"/var/log/mysql "$1"/usr/bin/myisam* "$1"/usr/bin/mysqlslap
for dir in lib/mysql lib/mysql-files lib/mysql-keyring; do
  mkdir -p "$1/var/$dir"; chroot "$1" chown 999:999 "/var/$dir"; chmod 750 "$1/var/$dir"
done
"#,
    dockerfile: "RUN [\"mkdir\", \"-m\", \"1777\", \"/run/mysqld\"]\nUSER 999\nCMD [\"mysqld\"]\n",
};

const REDIS_SERVER: Server = Server {
    title: "Redis",
    names: &[REDIS, REDIS_B],
    suite: "bookworm",
    packages: "redis-server,redis-sentinel",
    user: "redis",
    version: ("redis-server", r"v=7\.0\."),
    recipe: r#"
rm -rf "$1"/etc/redis "$1"/etc/default/redis* "$1"/var/lib/redis "$1"/var/log/redis "$1"/usr/bin/redis-benchmark
mkdir -p "$1"/data; chroot "$1" chown 999:999 /data
"#,
    dockerfile: "WORKDIR /data\nUSER 999\nCMD [\"redis-server\"]\n",
};

const VALKEY_SERVER: Server = Server {
    title: "Valkey",
    names: &[VALKEY],
    suite: "sid",
    packages: "valkey-server,valkey-sentinel",
    user: "valkey",
    version: ("valkey-server", r"v=9\."),
    recipe: r#"
rm -rf "$1"/etc/valkey "$1"/etc/default/valkey* "$1"/var/lib/valkey "$1"/var/log/valkey "$1"/usr/bin/valkey-benchmark
mkdir -p "$1"/data; chroot "$1" chown 999:999 /data
"#,
    dockerfile: "WORKDIR /data\nUSER 999\nCMD [\"valkey-server\"]\n",
};

/// Every server, built when the cache lacks it. The small ones come first.
pub(super) async fn servers(dirs: &Dirs, ui: &Ui) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for server in [&REDIS_SERVER, &VALKEY_SERVER, &MYSQL_SERVER] {
        images.push(server.image(dirs, ui).await?);
    }
    Ok(images)
}

// === impl Server ===

impl Server {
    async fn image(&self, dirs: &Dirs, ui: &Ui) -> Result<Image> {
        let (program, version) = self.version;
        let recipe = RECIPE.replace("USER", self.user).replace("PROGRAM", program).replace("VERSION", version) + self.recipe;
        let dockerfile = PATH.to_owned() + self.dockerfile;
        let name = self.names[0];
        let file = name.trim_start_matches("localhost/").replace(':', "-");
        let key = [self.suite, self.packages, recipe.as_str(), dockerfile.as_str()];
        let archive = dirs.cache.join(format!("images/{file}-{}.tar", digest(key)));
        if !archive.exists() {
            let work = fresh_dir(dirs, &format!("work-{file}"))?;
            let (script, rootfs) = (work.join("recipe.sh"), work.join("rootfs.tar"));
            fs::write(&script, recipe)?;
            // Without one, mmdebstrap takes Debian's own.
            let mirror = std::env::var_os("UNDERSTUDY_DEBIAN_MIRROR");
            ui.step(&format!("download {}'s Debian packages", self.title), async {
                run::output(
                    run::command("mmdebstrap")
                        .args(["--mode=root", "--variant=minbase", "--aptopt=Acquire::Check-Valid-Until \"false\""])
                        .arg(format!("--include={}", self.packages))
                        .arg(format!("--customize-hook=sh {} \"$1\"", script.display()))
                        .arg(self.suite)
                        .arg(&rootfs)
                        .args(mirror),
                )
                .await
            })
            .await
            .with_context(|| {
                let Self { suite, packages, .. } = self;
                format!("Debian {suite} must offer {name} ({packages}); set UNDERSTUDY_DEBIAN_MIRROR to a snapshot that does")
            })?;
            build(dirs, ui, name, &archive, &dockerfile, &[rootfs]).await?;
            fs::remove_dir_all(&work)?;
        }
        Ok(Image { archive, names: self.names.iter().map(|name| (*name).into()).collect() })
    }
}
