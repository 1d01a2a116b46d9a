//! The memory of the real binary: closed to other processes of its user, and without what was replaced.

use std::{fs::File, io};

use token_valet::sandbox::Settings;

use crate::{
    harness::{ACCOUNTS, Setup, provider},
    memory_search::find,
};

const EXCHANGES: usize = 4;

#[test]
fn memory_is_closed_to_its_user_and_to_root_shows_replaced_tokens_in_messages_only() {
    let provider = provider(Settings { rotate_refresh_tokens: true, ..Settings::default() });
    let sidecar = Setup::by_refresh_token(&provider).start();
    sidecar.wait_until_it_serves();
    match File::open(format!("/proc/{}/mem", sidecar.process.id())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
        opened => drop(opened.expect("the memory of a process that runs")),
    }
    let mut caller = sidecar.connect();
    for _ in 1..EXCHANGES {
        provider.revoke_tokens();
        caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    }
    let issued = provider.issued_secrets();
    assert_eq!(issued.len(), 2 * EXCHANGES);
    for (exchange, pair) in issued.chunks(2).enumerate() {
        for (kind, secret) in ["access", "refresh"].into_iter().zip(pair) {
            let found = find(sidecar.process.id(), secret);
            let figures = format!("{} copies, {} in messages", found.ours.len(), found.on_the_wire.len());
            #[expect(clippy::print_stdout, reason = "the figures are for whoever asks for them")]
            {
                println!("{kind} token {exchange}: {figures}");
            }
            let is_replaced = exchange + 1 < EXCHANGES;
            assert_eq!(found.ours.is_empty(), is_replaced, "{kind} token {exchange}: {found:#?}");
        }
    }
}
