//! `/fetch`: HTTP and HTTPS through the egress tunnel, TLS ending here.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use enclave_bridge_sdk::{Connector, Error as BridgeError, NakCode, Target};
use http::{HeaderValue, StatusCode, Uri, Version, header};
use http_body_util::Empty;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::Error;

pub(crate) type Client = hyper_util::client::legacy::Client<HttpsConnector<Connector>, Empty<Bytes>>;

/// How long a server may take until the head of its answer is there, connecting included.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// A server that speaks first and does not speak HTTP says when it has finished by nothing but silence.
const BANNER_QUIET_LIMIT: Duration = Duration::from_secs(2);

/// Mozilla's roots, or those of a file.
pub(crate) fn roots(file: Option<PathBuf>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let failed = |error: &dyn std::fmt::Display| format!("root certificates of {}: {error}", file.display());
    for certificate in CertificateDer::pem_file_iter(&file).map_err(|error| failed(&error))? {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    if roots.is_empty() {
        return Err(failed(&"none there").into());
    }
    Ok(roots)
}

pub(crate) fn client(connector: Connector, roots: RootCertStore) -> Result<Client, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
    // A connection for each fetch: the enclave keeps none open that the next one may find dead. And an answer without
    // HTTP's head (a banner) is handed on as it is.
    let mut client = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    Ok(client.pool_max_idle_per_host(0).http09_responses(true).build(connector))
}

/// Answers `target=host:port&path=/x[&scheme=https]`.
pub(crate) async fn fetch(client: &Client, query: &str) -> Response {
    let uri = match uri(query) {
        Ok(uri) => uri,
        Err((status, reason)) => return (status, reason).into_response(),
    };
    let response = match timeout(HEAD_LIMIT, client.get(uri)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return (StatusCode::BAD_GATEWAY, reason(&error)).into_response(),
        Err(_) => {
            let reason = format!("no answer within {} s", HEAD_LIMIT.as_secs());
            return (StatusCode::GATEWAY_TIMEOUT, reason).into_response();
        }
    };
    let banner = response.version() == Version::HTTP_09;
    let (head, body) = response.into_parts();
    let mut answer = if banner { Response::new(Body::new(Banner::new(body))) } else { Response::new(Body::new(body)) };
    *answer.status_mut() = head.status;
    let unknown = HeaderValue::from_static("application/octet-stream");
    let content_type = head.headers.get(header::CONTENT_TYPE).cloned().unwrap_or(unknown);
    answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    answer
}

fn uri(query: &str) -> Result<Uri, (StatusCode, String)> {
    let (mut target, mut path, mut scheme) = (None, "/".to_owned(), "http".to_owned());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "target" => target = Some(value.into_owned()),
            "path" => path = value.into_owned(),
            "scheme" => scheme = value.into_owned(),
            _ => {}
        }
    }
    let wrong = |reason: &str| (StatusCode::BAD_REQUEST, reason.to_owned());
    let target = target.ok_or_else(|| wrong("target=host:port is missing"))?;
    if !path.starts_with('/') {
        return Err(wrong("path does not begin with a slash"));
    }
    if scheme != "http" && scheme != "https" {
        return Err(wrong("scheme is neither http nor https"));
    }
    // What is no target is refused in the bridge's words, without asking it.
    let refused = |sentence: &str| (StatusCode::BAD_GATEWAY, format!("{} {sentence}", NakCode::BadTarget));
    Target::parse(target.as_bytes()).map_err(|nak| refused(nak.sentence()))?;
    format!("{scheme}://{target}{}", escaped(&path)).parse().map_err(|_| refused("not the host of a URI"))
}

/// What the query's decoding has uncovered and a request line cannot hold is covered again.
fn escaped(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~' if !b"\"#<>\\^`{|}".contains(&byte) => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// The bridge's code and sentence where it refused, else the whole chain of reasons.
fn reason(error: &hyper_util::client::legacy::Error) -> String {
    if let Some(BridgeError::Refused { code, sentence, .. }) = BridgeError::find(error) {
        return format!("{code} {sentence}");
    }
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        reason.push_str(&format!(": {error}"));
        source = error.source();
    }
    reason
}

/// What a server says that does not speak HTTP: over when it ends or has been quiet for a while.
struct Banner {
    body: Incoming,
    quiet: Pin<Box<Sleep>>,
}

impl Banner {
    fn new(body: Incoming) -> Self {
        Self { body, quiet: Box::pin(sleep(BANNER_QUIET_LIMIT)) }
    }
}

impl HttpBody for Banner {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.quiet.as_mut().reset(Instant::now() + BANNER_QUIET_LIMIT);
            return Poll::Ready(frame);
        }
        ready!(self.quiet.as_mut().poll(cx));
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_from_queries() {
        for (query, expected) in [
            ("target=example.org:80", "http://example.org:80/"),
            ("target=example.org:443&path=/a%3Fb=c&scheme=https", "https://example.org:443/a?b=c"),
            ("target=%5B2001:db8::1%5D:80&path=/", "http://[2001:db8::1]:80/"),
            ("target=example.org:80&path=/a+b%23%C3%BC", "http://example.org:80/a%20b%23%C3%BC"),
            ("target=169.254.169.254:80&path=/latest", "http://169.254.169.254:80/latest"),
        ] {
            assert_eq!(uri(query).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_is_wrong_with_a_query_is_said() {
        for (query, status, part) in [
            ("", StatusCode::BAD_REQUEST, "target"),
            ("target=a:1&path=x", StatusCode::BAD_REQUEST, "path"),
            ("target=a:1&scheme=ftp", StatusCode::BAD_REQUEST, "scheme"),
            ("target=a", StatusCode::BAD_GATEWAY, "BAD_TARGET"),
            ("target=user@host:80", StatusCode::BAD_GATEWAY, "BAD_TARGET"),
            ("target=a/b:80", StatusCode::BAD_GATEWAY, "BAD_TARGET"),
        ] {
            let (found, reason) = uri(query).unwrap_err();
            assert_eq!(found, status, "{query}");
            assert!(reason.contains(part), "{query}: {reason}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_an_error_that_names_it() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        let error = roots(Some(empty.path().into())).unwrap_err().to_string();
        assert!(error.contains(&empty.path().display().to_string()), "{error}");
        assert!(roots(Some("/nowhere/roots.pem".into())).unwrap_err().to_string().contains("/nowhere/roots.pem"));
        assert!(roots(None).unwrap().len() > 50);
    }
}
