//! Every URL of the simulator, and the document that describes them.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::web::{self, Data};
use actix_web::{App, Error, HttpResponse, get};
use utoipa::OpenApi;
use utoipa_actix_web::service_config::ServiceConfig;
use utoipa_actix_web::{AppExt as _, UtoipaApp};

use crate::world::Shared;
use crate::{api, control, oauth};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Simulated Pipedrive",
        description = "The provider's endpoints as far as they are simulated, and the controls under /_sim."
    ),
    tags(
        (name = "provider", description = "As Pipedrive answers"),
        (name = "controls", description = "What a test turns and reads"),
    )
)]
struct Document;

fn provider(config: &mut ServiceConfig<'_>) {
    config
        .service(oauth::authorize::authorize)
        .service(oauth::token::token_request)
        .service(oauth::token::token_request_with_slash)
        .service(oauth::revoke::revoke)
        .service(api::users::me)
        .service(api::users::me_under_api)
        .service(api::persons::persons_search);
}

fn controls(config: &mut ServiceConfig<'_>) {
    config
        .service(control::stats)
        .service(control::events)
        .service(control::reset)
        .service(control::settings)
        .service(control::change_settings)
        .service(control::faults)
        .service(control::add_fault)
        .service(control::clear_faults)
        .service(control::expire)
        .service(control::revoke)
        .service(control::uninstall)
        .service(control::add_person)
        .service(control::health)
        .service(control::health_at_the_root);
}

fn described<T>(app: App<T>) -> UtoipaApp<T>
where
    T: ServiceFactory<ServiceRequest, Config = (), Error = Error, InitError = ()>,
{
    app.into_utoipa_app()
        .openapi(Document::openapi())
        .configure(provider)
        .configure(controls)
}

pub(crate) fn app(
    shared: &Data<Shared>,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody + use<>>,
        Error = Error,
        InitError = (),
    > + use<>,
> {
    let (app, document) = described(App::new()).split_for_parts();
    app.app_data(shared.clone())
        .app_data(Data::new(document))
        .service(document_json)
        .default_service(web::to(api::gateway::unknown))
}

#[get("/openapi.json")]
async fn document_json(document: Data<utoipa::openapi::OpenApi>) -> HttpResponse {
    HttpResponse::Ok().json(&**document)
}

/// The `OpenAPI` document of the provider's endpoints and the controls, as JSON.
pub fn openapi() -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&described(App::new()).split_for_parts().1)
}
