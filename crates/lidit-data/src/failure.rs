//! Why a request failed, and whether another try may do better.

use std::error::Error;
use std::time::Duration;

use crate::location::{Scheme, Url};

// Where machines of the clouds hand out credentials: whoever has none in the environment ends up there.
const CREDENTIAL_PATHS: [&str; 4] = [
    "/latest/api/token",
    "/latest/meta-data",
    "/computeMetadata/",
    "/metadata/identity",
];

/// Why a try failed.
pub(crate) enum Failure {
    /// Another try may do better.
    Passing(String),
    /// It would not.
    Lasting(String),
    /// There is no such object.
    Missing(String),
}

impl Failure {
    /// What a client's error means for another try.
    pub fn of(url: &Url, error: &object_store::Error) -> Self {
        use object_store::Error as E;
        let text = chain(error);
        let hinted = || format!("{text}; {}", hint(url.scheme));
        match error {
            E::NotFound { .. } => Self::Missing(text),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::Lasting(hinted()),
            E::InvalidPath { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::UnknownConfigurationKey { .. }
            | E::Precondition { .. } => Self::Lasting(text),
            _ if CREDENTIAL_PATHS.iter().any(|path| text.contains(path)) => Self::Lasting(hinted()),
            _ if lasts(&text) => Self::Lasting(hinted()),
            _ => Self::Passing(text),
        }
    }
}

// The status is nowhere but in the text. An unknown text is tried again, which is slower but never wrong.
fn lasts(text: &str) -> bool {
    let status = text.split("non-2xx status code: ").nth(1).unwrap_or_default();
    let client_error = status.starts_with('4') && !["408", "429"].iter().any(|passing| status.starts_with(passing));
    client_error
        || text.contains("redirect without LOCATION")
        || text.contains("non-partial response when range requested")
        || status.starts_with('3')
}

fn hint(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => {
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL \
             (AWS_SKIP_SIGNATURE=true for a public bucket)"
        }
        Scheme::Gcs => "check GOOGLE_APPLICATION_CREDENTIALS (GOOGLE_SKIP_SIGNATURE=true for a public bucket)",
        Scheme::Azure => {
            "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (AZURE_SKIP_SIGNATURE=true for a public container)"
        }
        Scheme::Web => "the server must give this file to anyone and answer range requests",
    }
}

/// That nothing came for so long.
pub(crate) fn silence(limit: Duration) -> String {
    format!("no answer for {} s", limit.as_secs_f32())
}

/// An error with the causes that its own text leaves out, on one line of at most 600 characters.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    let line: Vec<&str> = text.split_whitespace().collect();
    let line = line.join(" ");
    let end = line.char_indices().nth(600).map_or(line.len(), |(at, _)| at);
    line[..end].to_owned()
}
