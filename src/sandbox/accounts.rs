//! What the end user has at the bank: made up, and the same in every run.

use std::{collections::BTreeMap, slice};

use http::StatusCode;
use serde_json::{Value, json};

use super::urlencoded;

/// Where the paths of this module begin.
pub(super) const PREFIX: &str = "/api/fdx/5/";

/// How many entries a page has, unless `limit` says otherwise.
const PAGE: usize = 100;

/// An error of the data API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Error {
    pub(super) status: StatusCode,
    pub(super) code: u16,
    pub(super) message: &'static str,
}

const NO_SUCH_PATH: Error =
    Error { status: StatusCode::NOT_FOUND, code: 601, message: "There is nothing at this path" };
const NO_SUCH_ACCOUNT: Error = Error { status: StatusCode::NOT_FOUND, code: 701, message: "Account not found" };
const INVALID_RANGE: Error =
    Error { status: StatusCode::BAD_REQUEST, code: 703, message: "The end is before the start" };
/// The trap of the error table: its `code` is 401, its status is not.
const INVALID_INPUT: Error = Error { status: StatusCode::BAD_REQUEST, code: 401, message: "Invalid input" };

/// Reads what a path below [`PREFIX`] names.
pub(super) fn read(path: &str, query: &str) -> Result<Value, Error> {
    let query = Query(urlencoded::pairs(query).collect());
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["accounts"] => accounts(&query),
        ["accounts", id] => Ok(account(find(id)?, Detail::Full)),
        ["accounts", id, "transactions"] => transactions(find(id)?, &query),
        ["accounts", id, "statements"] => statements(find(id)?, &query),
        _ => Err(NO_SUCH_PATH),
    }
}

/// How much of an account is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    Lightweight,
    Full,
}

struct Account {
    id: &'static str,
    /// The entity of FDX that it is.
    entity: &'static str,
    category: &'static str,
    kind: &'static str,
    name: &'static str,
    masked: &'static str,
    /// In cents, as everywhere here: owed, if it is a card's.
    balance: i64,
}

const ACCOUNTS: [Account; 3] = [
    Account {
        id: "b1f6c8e0-3a57-4c1c-9d27-5f0c1e6a7001",
        entity: "depositAccount",
        category: "DEPOSIT_ACCOUNT",
        kind: "CHECKING",
        name: "Everyday Chequing",
        masked: "****4417",
        balance: 284_619,
    },
    Account {
        id: "b1f6c8e0-3a57-4c1c-9d27-5f0c1e6a7002",
        entity: "depositAccount",
        category: "DEPOSIT_ACCOUNT",
        kind: "SAVINGS",
        name: "High Interest Savings",
        masked: "****9052",
        balance: 1_830_000,
    },
    Account {
        id: "b1f6c8e0-3a57-4c1c-9d27-5f0c1e6a7003",
        entity: "locAccount",
        category: "LOC_ACCOUNT",
        kind: "CREDITCARD",
        name: "Cash Back Credit Card",
        masked: "****3308",
        balance: 61_245,
    },
];

/// When, what and how many cents, newest first.
const TRANSACTIONS: [(&str, &str, i64); 6] = [
    ("2026-03-27T14:02:11Z", "PAYROLL DEPOSIT MAPLE SOFTWARE INC", 231_540),
    ("2026-03-25T21:40:53Z", "METRO 0384 MONTREAL QC", -8_612),
    ("2026-03-22T12:15:00Z", "INTERAC E-TRANSFER SENT", -25_000),
    ("2026-03-18T08:31:47Z", "HYDRO-QUEBEC BILL PAYMENT", -9_477),
    ("2026-03-13T14:02:09Z", "PAYROLL DEPOSIT MAPLE SOFTWARE INC", 231_540),
    ("2026-03-01T05:00:00Z", "RENT PRE-AUTHORIZED DEBIT", -148_000),
];

const STATEMENTS: [&str; 3] = ["2026-03-31", "2026-02-28", "2026-01-31"];

fn find(id: &str) -> Result<&'static Account, Error> {
    ACCOUNTS.iter().find(|account| account.id == id).ok_or(NO_SUCH_ACCOUNT)
}

fn accounts(query: &Query) -> Result<Value, Error> {
    let detail = match query.find("resultType") {
        None | Some("lightweight") => Detail::Lightweight,
        Some("details") => Detail::Full,
        Some(_) => return Err(INVALID_INPUT),
    };
    let chosen = match query.find("accountId") {
        Some(id) => slice::from_ref(find(id)?),
        None => &ACCOUNTS[..],
    };
    page("accounts", chosen.iter().map(|chosen| account(chosen, detail)).collect(), query)
}

fn account(account: &Account, detail: Detail) -> Value {
    let mut body = json!({
        "accountId": account.id,
        "accountCategory": account.category,
        "accountType": account.kind,
        "accountNumberDisplay": account.masked,
        "productName": account.name,
        "status": "OPEN",
        "currency": { "currencyCode": "CAD" },
    });
    if detail == Detail::Full {
        body["balanceAsOf"] = json!("2026-03-31T04:00:00Z");
        body["balanceType"] = json!(if account.entity == "locAccount" { "LIABILITY" } else { "ASSET" });
        body["currentBalance"] = dollars(account.balance);
        body["transferIn"] = json!(account.entity == "depositAccount");
    }
    json!({ account.entity: body })
}

fn transactions(account: &Account, query: &Query) -> Result<Value, Error> {
    let (start, end) = (query.find("startTime"), query.find("endTime"));
    if matches!((start, end), (Some(start), Some(end)) if end < start) {
        return Err(INVALID_RANGE);
    }
    let entity = account.entity.replace("Account", "Transaction");
    let chosen = TRANSACTIONS
        .iter()
        .enumerate()
        // Times of ISO 8601 sort as text does, and a day sorts before its hours.
        .filter(|(_, (at, ..))| start.is_none_or(|start| *at >= start) && end.is_none_or(|end| *at <= end))
        .map(|(index, (at, description, amount))| {
            let kind = if *amount < 0 { "DEBIT" } else { "CREDIT" };
            let transaction = json!({
                "accountId": account.id,
                "transactionId": format!("{}-{:04}", account.id, TRANSACTIONS.len() - index),
                "postedTimestamp": at,
                "description": description,
                "debitCreditMemo": kind,
                "amount": dollars(amount.abs()),
                "status": "POSTED",
            });
            json!({ entity.as_str(): transaction })
        })
        .collect();
    page("transactions", chosen, query)
}

fn statements(account: &Account, query: &Query) -> Result<Value, Error> {
    let all = STATEMENTS
        .iter()
        .map(|date| {
            json!({
                "accountId": account.id,
                "statementId": format!("{}-{date}", account.id),
                "statementDate": date,
                "description": format!("{} statement", account.name),
            })
        })
        .collect();
    page("statements", all, query)
}

#[expect(clippy::cast_precision_loss, reason = "amounts of this module have some seven digits")]
fn dollars(cents: i64) -> Value {
    json!(cents as f64 / 100.0)
}

/// The part of a list that `offset` and `limit` ask for, and where the rest is.
fn page(name: &str, mut all: Vec<Value>, query: &Query) -> Result<Value, Error> {
    let offset = query.number("offset")?.unwrap_or(0);
    let limit = query.number("limit")?.unwrap_or(PAGE);
    if limit == 0 {
        return Err(INVALID_INPUT);
    }
    let total = all.len();
    let mut page = json!({ "totalElements": total });
    let end = offset.saturating_add(limit);
    if end < total {
        page["nextOffset"] = json!(end.to_string());
    }
    all.truncate(end);
    all.drain(..offset.min(all.len()));
    Ok(json!({ "page": page, name: all }))
}

/// The parameters of a request.
struct Query(BTreeMap<String, String>);

impl Query {
    fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Result<Option<usize>, Error> {
        self.find(name).map(|value| value.parse().map_err(|_| INVALID_INPUT)).transpose()
    }
}
