//! Clients of object stores and web servers, set up from the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};

use crate::location::Scheme;
use crate::remote::Limits;

/// A client of a URL's store. Whatever the environment says, a request has an end; retries are left to the caller, so that
/// they are counted once.
pub(crate) fn connect(scheme: Scheme, store: &str, limits: &Limits) -> object_store::Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    let seconds = |limit: Duration| format!("{}ms", limit.as_millis());
    let (request, stall) = (seconds(limits.request), seconds(limits.stall));
    let options = [
        (ClientConfigKey::Timeout, &request),
        (ClientConfigKey::ReadTimeout, &stall),
    ];
    Ok(match scheme {
        Scheme::S3 => {
            let builder = AmazonS3Builder::from_env().with_url(store).with_retry(retry);
            let builder = options.into_iter().fold(builder, |builder, (key, value)| {
                builder.with_config(AmazonS3ConfigKey::Client(key), value)
            });
            Arc::new(builder.build()?)
        }
        Scheme::Gcs => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(store).with_retry(retry);
            let builder = options.into_iter().fold(builder, |builder, (key, value)| {
                builder.with_config(GoogleConfigKey::Client(key), value)
            });
            Arc::new(builder.build()?)
        }
        Scheme::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(store).with_retry(retry);
            let builder = options.into_iter().fold(builder, |builder, (key, value)| {
                builder.with_config(AzureConfigKey::Client(key), value)
            });
            Arc::new(builder.build()?)
        }
        Scheme::Web => {
            let options = ClientOptions::new()
                .with_allow_http(true)
                .with_timeout(limits.request)
                .with_read_timeout(limits.stall);
            let builder = HttpBuilder::new().with_url(store).with_retry(retry);
            Arc::new(builder.with_client_options(options).build()?)
        }
    })
}
