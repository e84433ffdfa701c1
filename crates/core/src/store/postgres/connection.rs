//! A diesel-async connection that sends each query as one unnamed statement.
//!
//! Parse, Bind, Describe, Execute and Sync go in one message and leave nothing behind in the session. Named statements
//! break behind transaction poolers (`PgBouncer`, Supavisor): there a name can even be another client's statement.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;

use diesel::backend::Backend;
use diesel::connection::{CacheSize, Instrumentation, InstrumentationEvent};
use diesel::pg::{Pg, PgMetadataLookup, PgQueryBuilder, PgTypeMetadata, PgValue, TypeOidLookup};
use diesel::query_builder::bind_collector::RawBytesBindCollector;
use diesel::query_builder::{AsQuery, QueryBuilder as _, QueryFragment, QueryId};
use diesel::result::{DatabaseErrorInformation, DatabaseErrorKind, Error};
use diesel::row::{Field, PartialRow, Row, RowIndex, RowSealed};
use diesel::{ConnectionError, ConnectionResult, QueryResult};
use diesel_async::{
    AnsiTransactionManager, AsyncConnection, AsyncConnectionCore, SimpleAsyncConnection,
};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};

use super::tls::Settings;
use crate::store::diagnosis::Diagnosis;
use crate::store::error::ConnectError;

type ValueResult<T> = Result<T, Box<dyn std::error::Error + Sync + Send>>;

pub(in crate::store) struct UnnamedPg {
    client: tokio_postgres::Client,
    transactions: AnsiTransactionManager,
    instrumentation: Box<dyn Instrumentation>,
}

impl UnnamedPg {
    pub(in crate::store) async fn connect(settings: &Settings) -> Result<Self, ConnectError> {
        let client = settings
            .connect()
            .await
            .map_err(|error| ConnectError::of(Diagnosis::of_postgres(&error), said(&error)))?;
        Ok(Self {
            client,
            transactions: AnsiTransactionManager::default(),
            instrumentation: Box::new(None::<fn(InstrumentationEvent<'_>)>),
        })
    }
}

impl UnnamedPg {
    pub(in crate::store) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    fn tell<T: QueryFragment<Pg>>(&mut self, query: &T) {
        let query = diesel::debug_query(query);
        self.instrumentation
            .on_connection_event(InstrumentationEvent::start_query(&query));
    }
}

impl AsyncConnection for UnnamedPg {
    type TransactionManager = AnsiTransactionManager;

    async fn establish(url: &str) -> ConnectionResult<Self> {
        let settings = Settings::parse(url)
            .map_err(|error| ConnectionError::InvalidConnectionUrl(error.to_string()))?;
        let made = Self::connect(&settings).await;
        made.map_err(|error| ConnectionError::BadConnection(error.to_string()))
    }

    fn transaction_state(&mut self) -> &mut AnsiTransactionManager {
        &mut self.transactions
    }

    fn instrumentation(&mut self) -> &mut dyn Instrumentation {
        &mut *self.instrumentation
    }

    fn set_instrumentation(&mut self, instrumentation: impl Instrumentation) {
        self.instrumentation = Box::new(instrumentation);
    }

    /// There are no prepared statements to keep.
    fn set_prepared_statement_cache_size(&mut self, _size: CacheSize) {}
}

impl SimpleAsyncConnection for UnnamedPg {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        self.client.batch_execute(query).await.map_err(to_diesel)
    }
}

impl AsyncConnectionCore for UnnamedPg {
    type ExecuteFuture<'conn, 'query> = BoxFuture<'conn, QueryResult<usize>>;
    type LoadFuture<'conn, 'query> = BoxFuture<'conn, QueryResult<Self::Stream<'conn, 'query>>>;
    type Stream<'conn, 'query> = BoxStream<'static, QueryResult<PgRow>>;
    type Row<'conn, 'query> = PgRow;
    type Backend = Pg;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Pg> + QueryId + 'query,
    {
        let query = source.as_query();
        self.tell(&query);
        let built = build(&query);
        async move {
            let (sql, binds) = built?;
            let rows = self
                .client
                .query_typed_raw(&sql, binds)
                .await
                .map_err(to_diesel)?;
            Ok(rows.map_ok(PgRow).map_err(to_diesel).boxed())
        }
        .boxed()
    }

    fn execute_returning_count<'conn, 'query, T>(
        &'conn mut self,
        source: T,
    ) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Pg> + QueryId + 'query,
    {
        self.tell(&source);
        let built = build(&source);
        async move {
            let (sql, binds) = built?;
            let binds: Vec<(&(dyn ToSql + Sync), Type)> = binds
                .iter()
                .map(|(value, kind)| -> (&(dyn ToSql + Sync), Type) { (value, kind.clone()) })
                .collect();
            let count = self
                .client
                .execute_typed(&sql, &binds)
                .await
                .map_err(to_diesel)?;
            usize::try_from(count).map_err(|error| Error::DeserializationError(error.into()))
        }
        .boxed()
    }
}

fn build<T: QueryFragment<Pg>>(query: &T) -> QueryResult<(String, Vec<(RawBind, Type)>)> {
    let mut sql = PgQueryBuilder::default();
    query.to_sql(&mut sql, &Pg)?;
    let mut collector = RawBytesBindCollector::<Pg>::new();
    query.collect_binds(&mut collector, &mut BuiltInTypes, &Pg)?;
    let binds = collector
        .metadata
        .iter()
        .zip(collector.binds)
        .map(|(metadata, value)| {
            let oid = metadata
                .oid()
                .map_err(|error| Error::SerializationError(Box::new(error)))?;
            let kind = Type::from_oid(oid).ok_or_else(|| {
                Error::SerializationError(format!("type {oid} is not built in").into())
            })?;
            Ok((RawBind(value), kind))
        })
        .collect::<QueryResult<Vec<_>>>()?;
    Ok((sql.finish(), binds))
}

/// Our schema has built-in types alone, whose numbers diesel knows.
struct BuiltInTypes;

impl PgMetadataLookup for BuiltInTypes {
    fn lookup_type(&mut self, _name: &str, _schema: Option<&str>) -> PgTypeMetadata {
        PgTypeMetadata::new(0, 0)
    }
}

/// A value that diesel has encoded already.
struct RawBind(Option<Vec<u8>>);

/// May be a token.
impl fmt::Debug for RawBind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[bound]")
    }
}

impl ToSql for RawBind {
    fn to_sql(&self, _kind: &Type, out: &mut BytesMut) -> ValueResult<IsNull> {
        Ok(match &self.0 {
            Some(bytes) => {
                out.extend_from_slice(bytes);
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, kind: &Type, out: &mut BytesMut) -> ValueResult<IsNull> {
        self.to_sql(kind, out)
    }
}

/// A value that diesel decodes.
struct RawValue<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for RawValue<'a> {
    fn from_sql(_kind: &Type, raw: &'a [u8]) -> ValueResult<Self> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_kind: &Type) -> ValueResult<Self> {
        Ok(Self(None))
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }
}

pub(in crate::store) struct PgRow(tokio_postgres::Row);

impl RowSealed for PgRow {}

impl<'a> Row<'a, Pg> for PgRow {
    type InnerPartialRow = Self;
    type Field<'b>
        = PgField<'b>
    where
        Self: 'b,
        'a: 'b;

    fn field_count(&self) -> usize {
        self.0.len()
    }

    fn get<'b, I>(&'b self, index: I) -> Option<Self::Field<'b>>
    where
        'a: 'b,
        Self: RowIndex<I>,
    {
        let index = self.idx(index)?;
        let column = self.0.columns().get(index)?;
        Some(PgField {
            name: column.name(),
            oid: Oid(NonZeroU32::new(column.type_().oid())?),
            value: self.0.try_get::<_, RawValue<'_>>(index).ok()?.0,
        })
    }

    fn partial_row(&self, range: Range<usize>) -> PartialRow<'_, Self> {
        PartialRow::new(self, range)
    }
}

impl RowIndex<usize> for PgRow {
    fn idx(&self, index: usize) -> Option<usize> {
        (index < self.0.len()).then_some(index)
    }
}

impl<'a> RowIndex<&'a str> for PgRow {
    fn idx(&self, name: &'a str) -> Option<usize> {
        self.0.columns().iter().position(|c| c.name() == name)
    }
}

pub(in crate::store) struct PgField<'a> {
    name: &'a str,
    oid: Oid,
    value: Option<&'a [u8]>,
}

impl<'a> Field<'a, Pg> for PgField<'a> {
    fn field_name(&self) -> Option<&str> {
        Some(self.name)
    }

    fn value(&self) -> Option<<Pg as Backend>::RawValue<'_>> {
        self.value.map(|bytes| PgValue::new(bytes, &self.oid))
    }
}

struct Oid(NonZeroU32);

impl TypeOidLookup for Oid {
    fn lookup(&self) -> NonZeroU32 {
        self.0
    }
}

/// diesel's names for what Postgres says, by SQLSTATE (Postgres manual, appendix A).
#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that `map_err` asks for"
)]
fn to_diesel(error: tokio_postgres::Error) -> Error {
    let Some(answer) = error.as_db_error() else {
        return Error::DatabaseError(
            DatabaseErrorKind::UnableToSendCommand,
            Box::new(said(&error)),
        );
    };
    let kind = match answer.code() {
        code if *code == SqlState::UNIQUE_VIOLATION => DatabaseErrorKind::UniqueViolation,
        code if *code == SqlState::NOT_NULL_VIOLATION => DatabaseErrorKind::NotNullViolation,
        code if *code == SqlState::CHECK_VIOLATION => DatabaseErrorKind::CheckViolation,
        code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
            DatabaseErrorKind::ReadOnlyTransaction
        }
        code if *code == SqlState::T_R_SERIALIZATION_FAILURE
            || *code == SqlState::T_R_DEADLOCK_DETECTED =>
        {
            DatabaseErrorKind::SerializationFailure
        }
        // connection exception, out of resources, shutting down or starting up
        code if ["08", "53", "57P"]
            .iter()
            .any(|c| code.code().starts_with(c)) =>
        {
            DatabaseErrorKind::ClosedConnection
        }
        // Whatever the code, the server or a pooler has ended the session.
        _ if has_ended_the_session(answer) => DatabaseErrorKind::ClosedConnection,
        _ => DatabaseErrorKind::Unknown,
    };
    let answer = Answer {
        said: said(&error),
        error: answer.clone(),
    };
    Error::DatabaseError(kind, Box::new(answer))
}

/// Poolers, and servers before Postgres 9.6, say the severity only in its translated form.
fn has_ended_the_session(answer: &DbError) -> bool {
    match answer.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        None => ["FATAL", "PANIC"].contains(&answer.severity()),
    }
}

struct Answer {
    said: String,
    error: DbError,
}

impl DatabaseErrorInformation for Answer {
    fn message(&self) -> &str {
        &self.said
    }

    fn details(&self) -> Option<&str> {
        self.error.detail()
    }

    fn hint(&self) -> Option<&str> {
        self.error.hint()
    }

    fn table_name(&self) -> Option<&str> {
        self.error.table()
    }

    fn column_name(&self) -> Option<&str> {
        self.error.column()
    }

    fn constraint_name(&self) -> Option<&str> {
        self.error.constraint()
    }

    fn statement_position(&self) -> Option<i32> {
        None
    }
}

/// tokio-postgres says what failed and leaves why to its sources; diesel has room for one text. The words may be in any
/// language, the code is not.
fn said(error: &tokio_postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        let code = answer.code().code();
        return format!("{} (SQLSTATE {code})", answer.message());
    }
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
