//! `token-valet sandbox`: the imitation provider, and the ordinary sidecar before it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{CliError, Programs, environment, on_control_thread};
use crate::{
    app::{self, Setup},
    config::{Address, Config, ConfigError, Fault, Place, Socket},
    listener::Listener,
    sandbox::{Provider, Settings},
    telemetry,
};

/// What is used unless a file is named.
const BUILT_IN: (&str, &str) = ("config/sandbox.toml", include_str!("../../config/sandbox.toml"));

pub(super) fn run(file: Option<&Path>) -> Result<u8, CliError> {
    on_control_thread(Programs::None, |signals| async move {
        let template = Template::new(file)?;
        // The provider needs to know some of the configuration, and the configuration where the provider is.
        let drawn = template.fill_in(None)?;
        if let Socket::Systemd(name) = &drawn.listen.address {
            return Err(template.refusal(name).into());
        }
        let log = telemetry::init(&drawn.log);
        let settings = Settings {
            client_id: drawn.token.client_id,
            scope: drawn.token.scope.unwrap_or_default(),
            token_life: drawn.sandbox.token_life,
            faults: drawn.sandbox.faults,
            ..template.settings.clone()
        };
        let provider = Provider::start(settings).map_err(CliError::Sandbox)?;
        let config = template.fill_in(Some(&provider))?;
        let setup = Setup { config, origin: None, log, errand: None };
        Ok(app::run(setup, signals, |port, admin| welcome(port, admin, &provider)).await?)
    })
}

/// A configuration that lacks what only the sandbox knows.
struct Template {
    name: PathBuf,
    text: String,
    grant: Option<String>,
    settings: Settings,
    /// The files that the configuration names: the code, the refresh token, the certificate.
    files: TempDir,
}

impl Template {
    fn new(file: Option<&Path>) -> Result<Self, CliError> {
        let (name, text) = match file {
            Some(path) => (path.to_owned(), Config::text(path)?),
            None => (BUILT_IN.0.into(), BUILT_IN.1.to_owned()),
        };
        let grant = Config::peek(&name, &text, environment(), "token.grant")?;
        // Either way of authentication, so that `token.client_auth` and `token.body` can be tried too.
        let settings = Settings { client_auth: None, token_body: None, memory: 1_000, ..Settings::default() };
        let files = tempfile::tempdir().map_err(CliError::Sandbox)?;
        Ok(Self { name, text, grant, settings, files })
    }

    /// The configuration, with the provider's particulars once it runs.
    fn fill_in(&self, provider: Option<&Provider>) -> Result<Config, CliError> {
        let supplied = self.supplied(provider).map_err(CliError::Sandbox)?;
        let supplied = supplied.into_iter().map(|(name, value)| (format!("TOKEN_VALET__{name}"), value));
        Ok(Config::parse(&self.name, &self.text, environment().into_iter().chain(supplied))?)
    }

    /// Why no socket is taken from systemd: that changes the environment, and the provider's threads are there before.
    fn refusal(&self, name: &str) -> ConfigError {
        let variable = "TOKEN_VALET__LISTEN__ADDRESS";
        let place = match env::var_os(variable) {
            Some(_) => Place::Variable(variable.to_owned()),
            None => Place::File { path: self.name.clone(), line: None, column: None },
        };
        let fault = Fault {
            key: Some("listen.address".to_owned()),
            problem: format!("is \"systemd:{name}\", expected an address that the sandbox can open itself"),
            place,
            hint: Some("write \"127.0.0.1:8080\", or `unix:` and a path".to_owned()),
        };
        fault.into()
    }

    fn supplied(&self, provider: Option<&Provider>) -> io::Result<Vec<(&'static str, String)>> {
        // The provider, in this same process, closes and opens its ports as it plays outages.
        let mut supplied = vec![("PROCESS__CONFINE", "false".to_owned())];
        supplied.push(("TOKEN__CLIENT_SECRET", self.settings.client_secret.clone()));
        match provider {
            Some(provider) => {
                let ca = self.file("ca.pem", provider.ca_pem())?;
                supplied.push(("UPSTREAM__URL", provider.api_url()));
                supplied.push(("UPSTREAM__CA_FILE", ca.clone()));
                supplied.push(("TOKEN__URL", provider.token_url()));
                supplied.push(("TOKEN__CA_FILE", ca));
            }
            None => {
                let anywhere = "https://localhost".to_owned();
                supplied.push(("UPSTREAM__URL", anywhere.clone()));
                supplied.push(("TOKEN__URL", anywhere));
            }
        }
        match self.grant.as_deref() {
            Some("authorization_code") => {
                supplied.push(("TOKEN__CODE_FILE", self.file("code", &self.settings.code)?));
                supplied.push(("TOKEN__REDIRECT_URI", self.settings.redirect_uri.clone()));
                supplied.push(("TOKEN__STATE_FILE", self.path("state.json")?));
            }
            Some("refresh_token") => {
                let file = self.file("refresh_token", &self.settings.refresh_token)?;
                supplied.push(("TOKEN__REFRESH_TOKEN_FILE", file));
            }
            _ => {}
        }
        Ok(supplied)
    }

    fn file(&self, name: &str, content: &str) -> io::Result<String> {
        let path = self.path(name)?;
        fs::write(&path, content)?;
        Ok(path)
    }

    fn path(&self, name: &str) -> io::Result<String> {
        let path = self.files.path().join(name);
        path.into_os_string().into_string().map_err(|_| io::Error::other("the temporary directory's name is not UTF-8"))
    }
}

fn welcome(port: &Listener, admin: &Listener, provider: &Provider) {
    let curl = match port.address() {
        Address::Tcp(address) => format!("curl http://{address}/api/fdx/5/accounts"),
        Address::Unix(path) => format!("curl --unix-socket {} http://localhost/api/fdx/5/accounts", path.display()),
    };
    let (admin, provider) = (admin.address(), provider.address());
    println!(
        "The sidecar runs before an imitation of the provider ({provider}) with made-up accounts. In another terminal:\n\
         \n  \
           {curl}\n\
         \n\
         Whether it is ready: http://{admin}/readyz. To end it: Ctrl-C.\n"
    );
}
