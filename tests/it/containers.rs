//! What the image and the example for Kubernetes say, held to what they must be.

use std::path::Path;

use linchpin::cli;
use linchpin::config;
use linchpin::discover::{PodPort, Source};
use serde_json::{Value, json};

use super::support::repository::{path, read};
use super::support::tool::Folder;
use super::support::yaml;

/// Whether these words are a command of Linchpin's that can be parsed.
fn is_command(words: &[&str]) -> bool {
    cli::definition().try_get_matches_from(words).is_ok()
}

/// The instructions of a Containerfile: the word and the rest.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(word, rest)| (word.to_owned(), rest.trim().to_owned()))
        .collect()
}

fn words(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}: the form with a shell?"))
}

#[test]
fn the_image_runs_without_root_and_without_a_shell() {
    let all = instructions(&read("Containerfile"));
    let last = all.iter().rposition(|(word, _)| word == "FROM").unwrap();
    let (building, image) = all.split_at(last);
    assert!(building.iter().any(|(word, rest)| word == "RUN" && rest == "cargo build --release --locked"));
    let of = |name: &str| {
        let found: Vec<_> = image.iter().filter(|(word, _)| word == name).map(|(_, rest)| rest.as_str()).collect();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0]
    };
    assert!(of("FROM").contains("distroless") && of("FROM").ends_with(":nonroot"), "{}", of("FROM"));
    assert!(image.iter().all(|(word, _)| word != "RUN"), "there is no shell to run it");
    assert_eq!(of("USER"), "65532:65532");
    assert!(of("EXPOSE").parse::<u16>().unwrap() >= 1024);
    let entry = words(of("ENTRYPOINT"));
    assert_eq!(entry, ["/usr/bin/linchpin"]);
    let command: Vec<_> = entry.iter().cloned().chain(words(of("CMD").trim())).collect();
    assert!(is_command(&command.iter().map(String::as_str).collect::<Vec<_>>()), "{command:?}");
    let health = words(of("HEALTHCHECK").split_once("CMD ").unwrap().1);
    assert_eq!(health[1], "healthcheck");
    assert!(is_command(&health.iter().map(String::as_str).collect::<Vec<_>>()), "{health:?}");
    for (word, rest) in image {
        if word == "COPY" && !rest.starts_with("--from") {
            let mut files: Vec<_> = rest.split_whitespace().collect();
            files.pop();
            files.iter().for_each(|file| assert!(path(file).exists(), "{file}"));
        }
    }
    let minor = env!("CARGO_PKG_RUST_VERSION");
    assert!(
        building.iter().any(|(word, rest)| word == "FROM" && rest.contains(&format!("rust:{minor}"))),
        "rust {minor}"
    );
}

/// The objects of deploy/kubernetes.yaml.
struct Example(Vec<Value>);

impl Example {
    fn read() -> Example {
        Example(yaml::documents(&read("deploy/kubernetes.yaml")))
    }

    fn only(&self, kind: &str) -> &Value {
        let found: Vec<_> = self.0.iter().filter(|object| object["kind"] == kind).collect();
        assert_eq!(found.len(), 1, "{kind}");
        found[0]
    }

    fn container(&self) -> &Value {
        let containers = self.only("Deployment")["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        &containers[0]
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn the_configuration_in_the_example_for_kubernetes_is_accepted_and_finds_the_pods_of_its_service() {
    let (example, folder) = (Example::read(), Folder::new());
    let text = example.only("ConfigMap")["data"]["linchpin.toml"].as_str().unwrap();
    let key = folder.write("k1.key", b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
    let text = text.replace("/etc/linchpin-keys/k1.key", &key);
    let (plan, _) = config::parse(&text, Path::new("linchpin.toml")).unwrap_or_else(|report| panic!("{report}"));
    let Source::Kubernetes(service) = &plan.pools[0].discover[0].source else { panic!("no source in Kubernetes") };
    let namespace = example.only("Role")["metadata"]["namespace"].as_str().unwrap();
    assert_eq!((service.namespace.as_str(), &service.port), (namespace, &PodPort::Named("http".into())));
    assert!(service.api_server.is_none() && service.token_file.is_none(), "all of it comes from the pod");
    let server = &plan.server;
    let pod = &example.only("Deployment")["spec"]["template"]["spec"];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > (server.shutdown_delay + server.shutdown_grace).as_secs(), "the pod is killed before it has ended");
    let port = plan.listeners[0].address.tcp().unwrap().port();
    assert_eq!(example.container()["ports"][0]["containerPort"], port);
}

#[test]
fn the_example_for_kubernetes_may_only_see_endpoint_slices_and_its_parts_fit_together() {
    let example = Example::read();
    let rules = &example.only("Role")["rules"];
    let expected = json!([{ "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"] }]);
    assert_eq!(*rules, expected);
    for object in &example.0 {
        assert_eq!(object["metadata"]["namespace"], "shop", "{}", object["kind"]);
        assert!(!["ClusterRole", "CustomResourceDefinition"].contains(&object["kind"].as_str().unwrap()));
    }
    let account = &example.only("ServiceAccount")["metadata"]["name"];
    let (binding, deployment) = (example.only("RoleBinding"), example.only("Deployment"));
    assert_eq!(binding["subjects"][0]["name"], *account);
    assert_eq!(binding["roleRef"]["name"], example.only("Role")["metadata"]["name"]);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], *account);
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &example.only("Service")["spec"]["selector"],
        &example.only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    let container = example.container();
    let mounted: Vec<_> = container["volumeMounts"].as_array().unwrap().iter().map(|mount| &mount["name"]).collect();
    let volumes: Vec<_> = pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
    assert_eq!(mounted, volumes);
    assert_eq!(pod["volumes"][0]["configMap"]["name"], example.only("ConfigMap")["metadata"]["name"]);
    assert_eq!(example.only("Service")["spec"]["ports"][0]["targetPort"], container["ports"][0]["name"]);
    // As unprivileged as it can be.
    assert_eq!(
        (&pod["securityContext"]["runAsNonRoot"], &pod["securityContext"]["runAsUser"]),
        (&json!(true), &json!(65532))
    );
    let security = &container["securityContext"];
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(
        (&security["allowPrivilegeEscalation"], &security["readOnlyRootFilesystem"]),
        (&json!(false), &json!(true))
    );
    let run: Vec<_> = std::iter::once("linchpin").chain(strings(&container["args"])).collect();
    assert!(is_command(&run), "{run:?}");
    let probe = strings(&container["readinessProbe"]["exec"]["command"]);
    assert!(is_command(&probe) && probe[1] == "healthcheck" && !probe.contains(&"--live"), "{probe:?}");
    // A busy process is not killed, nor one that drains: it takes a minute of failures, each longer than our own timeout.
    let liveness = &container["livenessProbe"];
    let probe = strings(&liveness["exec"]["command"]);
    assert!(is_command(&probe) && probe[1..3] == ["healthcheck", "--live"], "{probe:?}");
    let timeout: u64 = probe[probe.iter().position(|word| *word == "--timeout").unwrap() + 1].parse().unwrap();
    let number = |key: &str| liveness[key].as_u64().unwrap();
    assert!(number("timeoutSeconds") > timeout && number("periodSeconds") >= number("timeoutSeconds"));
    assert!(number("periodSeconds") * number("failureThreshold") >= 60);
    let image = container["image"].as_str().unwrap();
    assert!(image.ends_with(&format!(":{}", env!("CARGO_PKG_VERSION"))), "{image}");
}
