//! What a user installs and applies, against a real API server: the chart, the definitions, the examples of docs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::dirs::Dirs;
use e2e::ui::Ui;
use e2e::{ControlPlane, binaries, run};
use serde::Deserialize as _;
use serde_yaml::Value;

const NAMESPACE: &str = "understudy-system";
/// Every switch of the chart, so that every template is rendered.
const EVERYTHING: [&str; 6] = [
    "replicas=2",
    "watchNamespaces={shop,understudy-system}",
    "metrics.podMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "priorityClassName=system-cluster-critical",
    "podLabels.team=shop",
];

fn chart() -> Result<PathBuf> {
    Ok(Dirs::from_env()?.checkout.join("charts/understudy"))
}

async fn helm(arguments: &[&str]) -> Result<String> {
    let helm = binaries::helm(&Dirs::from_env()?, &Ui::default()).await?;
    run::output(run::command(helm).args(arguments).arg(chart()?)).await
}

async fn render(values: &[&str]) -> Result<Vec<Value>> {
    let mut arguments = vec!["template", "understudy", "--namespace", NAMESPACE];
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    documents(&helm(&arguments).await?)
}

fn documents(text: &str) -> Result<Vec<Value>> {
    let all = serde_yaml::Deserializer::from_str(text).map(Value::deserialize).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}

async fn kubectl(control_plane: &ControlPlane, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = run::command(binaries::kube_path(&Dirs::from_env()?));
    command.arg("kubectl").args(arguments).env("KUBECONFIG", control_plane.kubeconfig());
    run::output_with_input(&mut command, input).await
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<_> = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    ensure!(!files.is_empty(), "{} is empty", dir.display());
    Ok(files)
}

#[tokio::test]
async fn an_api_server_accepts_the_chart_its_definitions_and_the_examples() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    for namespace in [NAMESPACE, "shop"] {
        control_plane.namespace(namespace).await?;
    }
    for values in [&[][..], &EVERYTHING] {
        // The Prometheus operator's kinds are not known to this API server.
        let ours = render(values).await?.into_iter().filter(|object| object["apiVersion"] != "monitoring.coreos.com/v1");
        let text = ours.map(|object| serde_yaml::to_string(&object)).collect::<Result<Vec<_>, _>>()?.join("---\n");
        kubectl(&control_plane, &["apply", "--dry-run=server", "-f", "-"], &text).await?;
    }
    for file in files(&chart()?.join("crds"))? {
        kubectl(&control_plane, &["apply", "--server-side", "-f", &file.display().to_string()], "").await?;
    }
    kubectl(&control_plane, &["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"], "").await?;
    for file in files(&Dirs::from_env()?.checkout.join("docs/examples"))? {
        let example = file.display().to_string();
        kubectl(&control_plane, &["-n", "shop", "apply", "--dry-run=server", "-f", &example], "").await.context(example)?;
    }
    Ok(())
}

#[tokio::test]
async fn the_operator_may_not_enumerate_secrets_nor_enter_pods() -> Result<()> {
    for values in [&[][..], &EVERYTHING] {
        let objects = render(values).await?;
        let roles = objects.iter().filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")));
        let rules: Vec<_> = roles.flat_map(|role| role["rules"].as_sequence().cloned().unwrap_or_default()).collect();
        let has = |rule: &Value, key: &str, word: &str| rule[key].as_sequence().is_some_and(|list| list.iter().any(|item| item == word));
        assert!(rules.iter().any(|rule| has(rule, "resources", "secrets")), "the rule this test is about is there");
        for rule in &rules {
            for word in ["list", "watch", "deletecollection"] {
                assert!(!(has(rule, "resources", "secrets") && has(rule, "verbs", word)), "{word} on Secrets");
            }
            for resource in ["pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers", "serviceaccounts/token", "*"] {
                assert!(!has(rule, "resources", resource), "a right on {resource}");
            }
            assert!(!has(rule, "verbs", "*") && !has(rule, "apiGroups", "*"), "a wildcard");
        }
    }
    Ok(())
}

#[tokio::test]
async fn confined_to_namespaces_the_operator_has_no_right_beyond_them() -> Result<()> {
    let objects = render(&EVERYTHING).await?;
    assert!(objects.iter().all(|object| object["kind"] != "ClusterRoleBinding"));
    Ok(())
}

#[tokio::test]
async fn a_misspelt_value_is_refused() -> Result<()> {
    for value in ["replica=2", "image.pullPolicy=Sometimes", "watchNamespaces={Upper}", "metrics.podMonitor.intervall=1s"] {
        assert!(render(&[value]).await.is_err(), "{value} was accepted");
    }
    helm(&["lint", "--strict"]).await?;
    Ok(())
}
