//! Kubernetes' own types, which a schema asks for by name.

use anyhow::{Result, bail};
use k8s_openapi::api::{apps, autoscaling, core, networking, rbac};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

/// The schema of a type; what it consists of goes to the generator.
pub(crate) fn schema(kind: &str, generator: &mut SchemaGenerator) -> Result<Value> {
    fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
        generator.subschema_for::<T>().to_value()
    }
    Ok(match kind {
        "Affinity" => of::<core::v1::Affinity>(generator),
        "Container" => of::<core::v1::Container>(generator),
        "DeploymentStrategy" => of::<apps::v1::DeploymentStrategy>(generator),
        "EnvFromSource" => of::<core::v1::EnvFromSource>(generator),
        "EnvVar" => of::<core::v1::EnvVar>(generator),
        "HorizontalPodAutoscalerBehavior" => {
            of::<autoscaling::v2::HorizontalPodAutoscalerBehavior>(generator)
        }
        "LabelSelector" => of::<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>(generator),
        "Lifecycle" => of::<core::v1::Lifecycle>(generator),
        "LocalObjectReference" => of::<core::v1::LocalObjectReference>(generator),
        "NetworkPolicySpec" => of::<networking::v1::NetworkPolicySpec>(generator),
        "PersistentVolumeClaim" => of::<core::v1::PersistentVolumeClaim>(generator),
        "PodSecurityContext" => of::<core::v1::PodSecurityContext>(generator),
        "Probe" => of::<core::v1::Probe>(generator),
        "ResourceRequirements" => of::<core::v1::ResourceRequirements>(generator),
        "SecurityContext" => of::<core::v1::SecurityContext>(generator),
        "StatefulSetUpdateStrategy" => of::<apps::v1::StatefulSetUpdateStrategy>(generator),
        "Subject" => of::<rbac::v1::Subject>(generator),
        "Toleration" => of::<core::v1::Toleration>(generator),
        "TopologySpreadConstraint" => of::<core::v1::TopologySpreadConstraint>(generator),
        "Volume" => of::<core::v1::Volume>(generator),
        "VolumeMount" => of::<core::v1::VolumeMount>(generator),
        _ => bail!("unknown type of Kubernetes: {kind}"),
    })
}
