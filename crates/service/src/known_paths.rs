//! The paths of the service, and the methods that each of them takes.

use actix_web::dev::ResourceDef;
use utoipa::openapi::OpenApi;

/// The paths that are also for HEAD (RFC 9110 §9.3.2), as monitors send it. On the others it would be taken for the request
/// itself.
pub(crate) const ALSO_HEAD: [&str; 3] = ["/healthz", "/readyz", "/openapi.json"];

/// The methods that each path takes, read off the API's own description.
pub(crate) struct KnownPaths(Vec<(ResourceDef, String)>);

impl KnownPaths {
    pub(crate) fn of(openapi: &OpenApi) -> Self {
        let mut known = vec![(ResourceDef::new("/openapi.json"), "GET, HEAD".to_owned())];
        for (path, item) in &openapi.paths.paths {
            let mut methods: Vec<&str> = [
                ("GET", &item.get),
                ("POST", &item.post),
                ("PUT", &item.put),
                ("PATCH", &item.patch),
                ("DELETE", &item.delete),
            ]
            .into_iter()
            .filter_map(|(method, operation)| operation.as_ref().map(|_| method))
            .collect();
            if ALSO_HEAD.contains(&path.as_str()) {
                methods.push("HEAD");
            }
            let methods = methods.join(", ");
            known.push((ResourceDef::new(path.as_str()), methods));
        }
        Self(known)
    }

    pub(crate) fn methods_of(&self, path: &str) -> Option<&str> {
        self.0
            .iter()
            .find_map(|(known, methods)| known.is_match(path).then_some(methods.as_str()))
    }
}
