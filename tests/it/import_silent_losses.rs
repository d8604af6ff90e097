//! What a source restricts in places that are easily overlooked is never lost with exit code 0.

use linchpin::import::{Format, import};

#[test]
fn what_another_controller_or_a_label_restricts_is_not_lost_silently() {
    let ingress = |class: &str, annotation: &str| {
        format!(
            "kind: Ingress\nmetadata:\n  name: app\n  annotations:\n    {annotation}\nspec:\n  ingressClassName: {class}\n  \
             defaultBackend: {{service: {{name: app, port: {{number: 80}}}}}}\n"
        )
    };
    let server =
        |condition: &str| format!("server {{ listen 80; {condition} location / {{ proxy_pass http://10.0.0.1; }} }}\n");
    let labels = |label: &str| format!("services:\n  app:\n    image: app\n    labels:\n      - {label}\n");
    let middlewares = "traefik.ingress.kubernetes.io/router.middlewares: default-auth@kubernetescrd";
    for (text, format, is_lost) in [
        (ingress("traefik", middlewares), Format::IngressNginx, true),
        (ingress("nginx", middlewares), Format::IngressNginx, false),
        (ingress("internal", "cert-manager.io/issuer: x"), Format::IngressNginx, false),
        (labels("traefik.http.middlewares.a.basicauth.users=ana:x"), Format::Traefik, true),
        (labels("traefik.http.routers.app.middlewares=a@docker"), Format::Traefik, true),
        (labels("traefik.http.services.app.loadbalancer.sticky.cookie=true"), Format::Traefik, false),
        (server("if ($request_method !~ ^(GET|POST)$) { return 405; }"), Format::Nginx, true),
        (server("if ($args) { return 429; }"), Format::Nginx, false),
    ] {
        let made = import(&text, "source", format).unwrap();
        assert_eq!(made.lost_access_control, is_lost, "{text}\n---\n{}", made.text);
        assert!(!made.text.contains("ana:x"), "{}", made.text);
    }
}
