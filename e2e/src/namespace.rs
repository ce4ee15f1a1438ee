//! A namespace for one test: random name, Pod Security *restricted* enforced, and a report when the test fails.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use anyhow::{Context, Result};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use crate::lab::Lab;
use crate::stage::SYSTEM;

/// A namespace of its own; deleted by [`TestNamespace::finish`] or at the end of [`TestNamespace::run`].
pub struct TestNamespace {
    lab: Lab,
    name: String,
}

impl TestNamespace {
    /// Creates `NAME-RANDOM`.
    pub async fn new(lab: &Lab, name: &str) -> Result<Self> {
        let wanted = serde_json::from_value::<Namespace>(serde_json::json!({"metadata": {
            "generateName": format!("{name}-"),
            "labels": {"pod-security.kubernetes.io/enforce": "restricted", "understudy.dev/test": "true"},
        }}))?;
        let made = Api::<Namespace>::all(lab.client().clone()).create(&PostParams::default(), &wanted).await?;
        Ok(Self { lab: lab.clone(), name: made.metadata.name.context("the API server names what it creates")? })
    }

    /// Runs a test in a new namespace. When it fails or panics, pods, events and logs are printed before everything is deleted.
    pub async fn run<F: Future<Output = Result<()>>>(lab: &Lab, name: &str, test: impl FnOnce(Lab, String) -> F) -> Result<()> {
        let namespace = Self::new(lab, name).await?;
        let outcome = AssertUnwindSafe(test(lab.clone(), namespace.name.clone())).catch_unwind().await;
        if !matches!(outcome, Ok(Ok(()))) {
            // First: what comes after it is long.
            if let Ok(Err(error)) = &outcome {
                eprintln!("{}: {error:#}", namespace.name);
            }
            eprintln!("{}", namespace.report().await);
        }
        let deleted = namespace.finish().await;
        match outcome {
            Ok(outcome) => outcome.and(deleted),
            // A failed assertion, told only now.
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Deletes it with all it holds, without waiting for the end.
    pub async fn finish(self) -> Result<()> {
        Api::<Namespace>::all(self.lab.client().clone()).delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// What a person would look at first.
    pub async fn report(&self) -> String {
        let look: [&[&str]; 5] = [
            &["get", "databases,statefulsets,pods,pvc,endpointslices", "-o", "wide", "-n", &self.name],
            &["get", "databases", "-o", "yaml", "-n", &self.name],
            &["get", "events", "--sort-by=.lastTimestamp", "-n", &self.name],
            &[
                "logs",
                "-n",
                &self.name,
                "-l",
                "app.kubernetes.io/managed-by=understudy",
                "--all-containers",
                "--prefix",
                "--ignore-errors",
                "--tail=60",
            ],
            &["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=understudy", "--tail=120"],
        ];
        let mut report = format!("=== namespace {}\n", self.name);
        for arguments in look {
            // Half a report is better than none.
            let text = self.lab.kubectl(arguments).await.unwrap_or_else(|error| format!("{error:#}"));
            report.push_str(&format!("--- kubectl {}\n{text}\n", arguments.join(" ")));
        }
        report
    }
}
