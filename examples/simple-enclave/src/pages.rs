//! The five requests.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::extract::{ConnectInfo, Path, RawQuery, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use enclave_bridge_sdk::{ClientAddr, Environment};
use http::{StatusCode, header};
use tokio::sync::watch;

use crate::fetch::{Client, fetch};

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) environment: watch::Receiver<Arc<Environment>>,
    pub(crate) client: Client,
}

impl Pages {
    pub(crate) fn into_service(self) -> IntoMakeServiceWithConnectInfo<Router, ClientAddr> {
        Router::new()
            .route("/", get(|| async { "Hello from the enclave!" }))
            .route("/echo", post(echo))
            .route("/env/{name}", get(env))
            .route("/fetch", get(fetched))
            .route("/client", get(|ConnectInfo(client): ConnectInfo<ClientAddr>| async move { client.to_string() }))
            .layer(from_fn(logged))
            .with_state(self)
            .into_make_service_with_connect_info()
    }
}

/// The request's body becomes the answer's: it is never here as a whole.
async fn echo(request: Request) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], request.into_body()).into_response()
}

async fn env(State(pages): State<Pages>, Path(name): Path<String>) -> Result<String, StatusCode> {
    let environment = Arc::clone(&pages.environment.borrow());
    environment.get(&name).map(str::to_owned).ok_or(StatusCode::NOT_FOUND)
}

async fn fetched(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response<Body> {
    fetch(&pages.client, query.as_deref().unwrap_or_default()).await
}

async fn logged(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    tracing::info!(%method, path, status = response.status().as_u16(), "request");
    response
}
