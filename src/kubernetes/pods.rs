//! Which profiles the pods of a node name, whether they run or not.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::client::Client;
use super::failure::Failure;
use super::object::Metadata;
use super::resource::{Resource, Selector, Shape};

/// More pods than any node has.
const MOST: usize = 16_384;
/// How a container's profile was named before Kubernetes 1.30: the key ends with its name.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What the API says of a pod.
#[derive(Debug, Deserialize)]
struct Pod {
    metadata: PodMetadata,
    #[serde(default)]
    spec: PodSpec,
}

#[derive(Debug, Deserialize)]
struct PodMetadata {
    #[serde(flatten)]
    object: Metadata,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    security_context: SecurityContext,
    init_containers: Vec<Container>,
    containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    security_context: SecurityContext,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SecurityContext {
    app_armor_profile: AppArmorProfile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AppArmorProfile {
    localhost_profile: Option<String>,
}

impl Pod {
    /// The profiles that it names; a stack names each of its parts.
    fn profiles(&self) -> impl Iterator<Item = &str> {
        let spec = &self.spec;
        let containers = [
            &spec.init_containers,
            &spec.containers,
            &spec.ephemeral_containers,
        ];
        let contexts = containers.into_iter().flatten();
        let contexts = contexts.map(|container| &container.security_context);
        let fields = std::iter::once(&spec.security_context)
            .chain(contexts)
            .filter_map(|context| context.app_armor_profile.localhost_profile.as_deref());
        let annotated = self.metadata.annotations.iter();
        let annotated = annotated
            .filter(|(key, _)| key.starts_with(ANNOTATION))
            .filter_map(|(_, value)| value.strip_prefix("localhost/"));
        fields.chain(annotated).flat_map(|name| name.split("//&"))
    }
}

/// Each profile that a pod of `node` names, with the first such pod, as `NAMESPACE/NAME`. Pods
/// that have ended for good are passed over: they never start again.
///
/// # Errors
/// Whatever keeps the list from being read whole.
pub(crate) fn named(client: &Client, node: &str) -> Result<BTreeMap<String, String>, Failure> {
    let pods = Resource {
        api: "api/v1",
        namespace: None,
        plural: "pods",
        name: None,
    };
    let alive = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
    let pods: Vec<Pod> = client.list(pods, Selector::Field(&alive), Shape::Whole, MOST)?;
    Ok(by_profile(&pods))
}

fn by_profile(pods: &[Pod]) -> BTreeMap<String, String> {
    let mut named = BTreeMap::new();
    for pod in pods {
        let Metadata {
            namespace, name, ..
        } = &pod.metadata.object;
        for profile in pod.profiles() {
            named
                .entry(profile.to_owned())
                .or_insert_with(|| format!("{namespace}/{name}"));
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn profiles_of(pod: Value) -> Vec<String> {
        let pods: Vec<Pod> = vec![serde_json::from_value(pod).unwrap()];
        by_profile(&pods).into_keys().collect()
    }

    fn localhost(name: &str) -> Value {
        json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": name}})
    }

    #[test]
    fn every_place_that_can_name_a_profile_is_looked_at() {
        let annotations = json!({
            "container.apparmor.security.beta.kubernetes.io/app": "localhost/custom.annotated",
            "container.apparmor.security.beta.kubernetes.io/more": "runtime/default",
            "example.com/note": "localhost/custom.no",
        });
        let pod = json!({
            "metadata": {"namespace": "shop", "name": "web", "annotations": annotations},
            "spec": {
                "securityContext": localhost("custom.pod"),
                "initContainers": [{"name": "i", "securityContext": localhost("custom.init")}],
                "containers": [
                    {"name": "a", "securityContext": localhost("custom.app")},
                    {"name": "b", "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}},
                    {"name": "c"},
                ],
                "ephemeralContainers": [{"securityContext": localhost("custom.debug")}],
            },
        });
        let wanted = ["annotated", "app", "debug", "init", "pod"];
        assert_eq!(
            profiles_of(pod),
            wanted.map(|name| format!("custom.{name}"))
        );
    }

    #[test]
    fn a_stack_names_each_of_its_parts() {
        let pod = json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"securityContext": localhost("custom.a//&custom.b"), "containers": []},
        });
        assert_eq!(profiles_of(pod), ["custom.a", "custom.b"]);
    }

    #[test]
    fn a_pod_that_names_nothing_is_no_obstacle() {
        assert!(profiles_of(json!({"metadata": {"namespace": "n", "name": "p"}})).is_empty());
    }
}
