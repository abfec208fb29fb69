//! The shop itself, without any state: what a row holds after transaction `n` is computed from its key, the seed and
//! `n` alone, and so is what transaction `n` changes. The life of every row is a timetable:
//!
//! - order `o` is placed by transaction `o` with one to four items, paid 3 transactions later, shipped 20 later, and
//!   one in twenty is sent back 50 later, which deletes it and its items;
//! - every fifth transaction brings a customer, who moves 40 transactions later, becomes a regular after 400, and one
//!   in ten leaves after 1000;
//! - the first 200 transactions bring a product each, and every fourth transaction gives one a new price.
//!
//! Transaction `alter` holds no rows but a new column, `orders.channel`; those behind it are shifted by one.

use freshet_core::batch::{OP_DELETE, OP_UPSERT};
use freshet_core::{Column, ColumnPosition, DataType, DefaultValue, TableChange, TableName, TableSchema};

use super::rows::Value;

/// The tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Customers,
    Products,
    Orders,
    OrderItems,
}

/// All of them, in the order of their numbers.
pub(super) const TABLES: [Table; 4] = [Table::Customers, Table::Products, Table::Orders, Table::OrderItems];

const PAID_AFTER: u64 = 3;
const SHIPPED_AFTER: u64 = 20;
const RETURNED_AFTER: u64 = 50;
const ORDERS_PER_CUSTOMER: u64 = 5;
const MOVES_AFTER: u64 = 40;
const REGULAR_AFTER: u64 = 400;
const LEAVES_AFTER: u64 = 1000;
const PRODUCTS: u64 = 200;
const REPRICE_EVERY: u64 = 4;
/// The `j`th new price is for product `1 + j * STRIDE mod PRODUCTS`; the inverse finds a product's last one.
const STRIDE: u64 = 77;
const STRIDE_INVERSE: u64 = 13;
/// 2026-01-01 in microseconds, and the time between two transactions.
const OPENED: i64 = 1_767_225_600_000_000;
const TICK: i64 = 1_370_041;

const FIRST_NAMES: [&str; 12] =
    ["Ada", "Björn", "Chloé", "Dmitri", "Elif", "Farid", "Grace", "Hana", "Inés", "Jun", "Kofi", "Léa"];
const LAST_NAMES: [&str; 10] =
    ["Novak", "O'Brien", "Müller", "Tanaka", "Okafor", "Silva", "Haddad", "Jensen", "Rossi", "Kaya"];
const COUNTRIES: [&str; 8] = ["DE", "FR", "JP", "US", "BR", "NG", "TR", "IN"];
const THINGS: [&str; 10] =
    ["Lamp", "Chair", "Kettle", "Backpack", "Bicycle", "Desk", "Teapot", "Clock", "Scarf", "Radio"];
const KINDS: [&str; 8] = ["Oak", "Steel", "Travel", "Classic", "Mini", "Grand", "Quiet", "Folding"];
const CHANNELS: [&str; 4] = ["web", "app", "store", "phone"];

impl Table {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Customers => "customers",
            Table::Products => "products",
            Table::Orders => "orders",
            Table::OrderItems => "order_items",
        }
    }
}

/// A shop.
#[derive(Debug, Clone)]
pub(super) struct Shop {
    pub(super) database: String,
    pub(super) seed: u64,
    /// Number of the transaction that adds a column.
    pub(super) alter: u64,
}

impl Shop {
    /// How many transactions with rows there are up to and with that number.
    fn steps(&self, number: u64) -> u64 {
        if number < self.alter { number } else { number - 1 }
    }

    /// Well-mixed bits (splitmix64) for a fact about a thing.
    fn bits(&self, fact: u64, thing: u64) -> u64 {
        let mut z = self.seed ^ fact.rotate_left(48) ^ thing.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for _ in 0..2 {
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
        }
        z
    }

    fn pick<'a>(&self, fact: u64, thing: u64, from: &[&'a str]) -> &'a str {
        from[(self.bits(fact, thing) % from.len() as u64) as usize]
    }

    /// Highest value of the first key column after that transaction.
    pub(super) fn ids(&self, table: Table, number: u64) -> u64 {
        let steps = self.steps(number);
        match table {
            Table::Customers => steps.div_ceil(ORDERS_PER_CUSTOMER),
            Table::Products => steps.min(PRODUCTS),
            Table::Orders | Table::OrderItems => steps,
        }
    }

    /// About how many rows there are.
    pub(super) fn estimate(&self, table: Table, number: u64) -> u64 {
        let ids = self.ids(table, number);
        match table {
            Table::Customers => ids - ids / 10,
            Table::Products => ids,
            Table::Orders => ids - ids / 20,
            Table::OrderItems => (ids - ids / 20) * 5 / 2,
        }
    }

    /// The rows whose key begins with `id`, after transaction `number`.
    pub(super) fn rows(&self, table: Table, id: u64, number: u64) -> Vec<Vec<Value>> {
        let steps = self.steps(number);
        match table {
            Table::Customers => self.customer(id, steps).into_iter().collect(),
            Table::Products => self.product(id, steps).into_iter().collect(),
            Table::Orders if self.is_there(id, steps) => vec![self.order(id, steps, number >= self.alter)],
            Table::OrderItems if self.is_there(id, steps) => {
                (1..=self.items(id)).map(|line| self.item(id, line)).collect()
            }
            Table::Orders | Table::OrderItems => Vec::new(),
        }
    }

    /// Hands the changes of a transaction over, in order. In a delete only the key means something.
    pub(super) fn transaction(&self, number: u64, each: &mut impl FnMut(Table, i8, Vec<Value>)) {
        if number == self.alter {
            return;
        }
        let step = self.steps(number);
        let altered = number >= self.alter;
        let newcomer = (step - 1).is_multiple_of(ORDERS_PER_CUSTOMER).then_some((step - 1) / ORDERS_PER_CUSTOMER + 1);
        newcomer.into_iter().for_each(|id| each(Table::Customers, OP_UPSERT, self.newest_customer(id, step)));
        for after in [MOVES_AFTER, REGULAR_AFTER, LEAVES_AFTER] {
            let Some(born) = step.checked_sub(after).filter(|s| *s > 0) else { continue };
            if !(born - 1).is_multiple_of(ORDERS_PER_CUSTOMER) {
                continue;
            }
            let id = (born - 1) / ORDERS_PER_CUSTOMER + 1;
            match self.customer(id, step) {
                Some(row) if after != LEAVES_AFTER => each(Table::Customers, OP_UPSERT, row),
                None if after == LEAVES_AFTER => each(Table::Customers, OP_DELETE, self.newest_customer(id, step)),
                _ => {}
            }
        }
        if step <= PRODUCTS {
            self.product(step, step).into_iter().for_each(|row| each(Table::Products, OP_UPSERT, row));
        }
        if step.is_multiple_of(REPRICE_EVERY) {
            let id = 1 + (step / REPRICE_EVERY * STRIDE) % PRODUCTS;
            self.product(id, step).into_iter().for_each(|row| each(Table::Products, OP_UPSERT, row));
        }
        each(Table::Orders, OP_UPSERT, self.order(step, step, altered));
        (1..=self.items(step)).for_each(|line| each(Table::OrderItems, OP_UPSERT, self.item(step, line)));
        for after in [PAID_AFTER, SHIPPED_AFTER] {
            if let Some(id) = step.checked_sub(after).filter(|id| *id > 0) {
                each(Table::Orders, OP_UPSERT, self.order(id, step, altered));
            }
        }
        if let Some(id) = step.checked_sub(RETURNED_AFTER).filter(|id| *id > 0 && self.is_sent_back(*id)) {
            (1..=self.items(id)).for_each(|line| each(Table::OrderItems, OP_DELETE, self.item(id, line)));
            each(Table::Orders, OP_DELETE, self.order(id, step, altered));
        }
    }

    /// The schema change of transaction `alter`.
    pub(super) fn schema_change(&self) -> (TableName, TableChange, String) {
        let statement = format!(
            "ALTER TABLE `{}`.`orders` ADD COLUMN `channel` varchar(16) NOT NULL DEFAULT 'web' AFTER `status`",
            self.database
        );
        let change = TableChange::AddColumn { column: channel(), position: ColumnPosition::After("status".into()) };
        (TableName::new(&self.database, Table::Orders.name()), change, statement)
    }

    /// The schema after that transaction.
    pub(super) fn schema(&self, table: Table, number: u64) -> TableSchema {
        let (key, columns): (&[&str], _) = match table {
            Table::Customers => (&["id"], customer_columns()),
            Table::Products => (&["id"], product_columns()),
            Table::Orders => (&["id"], order_columns(number >= self.alter)),
            Table::OrderItems => (&["order_id", "line"], item_columns()),
        };
        TableSchema {
            name: TableName::new(&self.database, table.name()),
            columns,
            key: key.iter().map(ToString::to_string).collect(),
            comment: String::new(),
            source_defaults: String::new(),
        }
    }

    fn newest_customer(&self, id: u64, step: u64) -> Vec<Value> {
        let age = step - (1 + (id - 1) * ORDERS_PER_CUSTOMER);
        let moved = u64::from(age >= MOVES_AFTER);
        let (first, last) = (self.pick(1, id, &FIRST_NAMES), self.pick(2, id, &LAST_NAMES));
        let mail = format!("{}.{id}@example.com", first.to_lowercase());
        let birthday = (!self.bits(3, id).is_multiple_of(7)).then(|| (self.bits(4, id) % 20_000) as i64 - 3000);
        let since = OPENED + (1 + (id - 1) * ORDERS_PER_CUSTOMER) as i64 * TICK;
        vec![
            Value::Int(id as i64),
            Value::Text(format!("{first} {last}")),
            Value::Text(mail),
            Value::Text(self.pick(5 + moved, id, &COUNTRIES).into()),
            birthday.map_or(Value::Null, Value::Day),
            Value::Bool(age >= REGULAR_AFTER),
            Value::Cents((self.bits(7, id) % 100_000) as i64 - 20_000),
            Value::Micros(since),
        ]
    }

    fn customer(&self, id: u64, step: u64) -> Option<Vec<Value>> {
        let born = 1 + id.checked_sub(1)?.checked_mul(ORDERS_PER_CUSTOMER)?;
        let leaves = self.bits(8, id).is_multiple_of(10);
        (born <= step && !(leaves && step - born >= LEAVES_AFTER)).then(|| self.newest_customer(id, step))
    }

    fn product(&self, id: u64, step: u64) -> Option<Vec<Value>> {
        if id == 0 || id > PRODUCTS || id > step {
            return None;
        }
        // The last j with 1 + j * STRIDE mod PRODUCTS = id, j * REPRICE_EVERY <= step.
        let (newest, wanted) = (step / REPRICE_EVERY, (id - 1) * STRIDE_INVERSE % PRODUCTS);
        let price = newest.checked_sub((newest % PRODUCTS + PRODUCTS - wanted) % PRODUCTS).filter(|j| *j > 0);
        let price = price.filter(|j| j * REPRICE_EVERY >= id);
        let title = format!("{} {}", self.pick(10, id, &KINDS), self.pick(11, id, &THINGS));
        let weight = (self.bits(12, id) % 30_000) as f64 / 1000.0;
        Some(vec![
            Value::Int(id as i64),
            Value::Text(format!("SKU-{:05}", self.bits(13, id) % 100_000)),
            Value::Text(title),
            Value::Cents(price_of(self.bits(14, id << 32 | price.unwrap_or(0)))),
            Value::Double(weight),
            Value::Int((self.bits(15, id) % 5) as i64),
            Value::Text(format!(
                "{{\"color\": \"#{:06x}\", \"boxed\": {}}}",
                self.bits(16, id) & 0xFF_FFFF,
                id.is_multiple_of(2)
            )),
            Value::Micros(OPENED + price.map_or(id, |j| j * REPRICE_EVERY) as i64 * TICK),
        ])
    }

    fn is_sent_back(&self, order: u64) -> bool {
        self.bits(20, order).is_multiple_of(20)
    }

    fn is_there(&self, order: u64, step: u64) -> bool {
        order > 0 && order <= step && !(self.is_sent_back(order) && step - order >= RETURNED_AFTER)
    }

    fn items(&self, order: u64) -> u64 {
        1 + self.bits(21, order) % 4
    }

    fn order(&self, id: u64, step: u64, altered: bool) -> Vec<Value> {
        let age = step - id;
        let (status, changed) = match age {
            SHIPPED_AFTER.. => ("shipped", SHIPPED_AFTER),
            PAID_AFTER.. => ("paid", PAID_AFTER),
            _ => ("new", 0),
        };
        let total = (1..=self.items(id)).map(|line| self.item_price(id, line) * self.quantity(id, line)).sum();
        let customers = id.div_ceil(ORDERS_PER_CUSTOMER);
        let note = if self.bits(23, id).is_multiple_of(6) {
            Value::Text("please ring twice – danke".into())
        } else {
            Value::Null
        };
        let mut row = vec![
            Value::Int(id as i64),
            Value::Int((1 + self.bits(22, id) % customers) as i64),
            Value::Text(status.into()),
        ];
        if altered {
            // Orders of before the change have its default.
            let channel = if id < self.alter { CHANNELS[0] } else { self.pick(24, id, &CHANNELS) };
            row.push(Value::Text(channel.into()));
        }
        row.extend([
            Value::Cents(total),
            Value::Int(self.items(id) as i64),
            note,
            Value::Micros(OPENED + id as i64 * TICK / 1000 * 1000),
            Value::Micros(OPENED + (id + changed) as i64 * TICK),
        ]);
        row
    }

    fn quantity(&self, order: u64, line: u64) -> i64 {
        1 + (self.bits(25 + line, order) % 3) as i64
    }

    fn item_price(&self, order: u64, line: u64) -> i64 {
        price_of(self.bits(30 + line, order))
    }

    fn item(&self, order: u64, line: u64) -> Vec<Value> {
        let gift = self.bits(35 + line, order).is_multiple_of(9);
        vec![
            Value::Int(order as i64),
            Value::Int(line as i64),
            Value::Int((1 + self.bits(40 + line, order) % PRODUCTS) as i64),
            Value::Int(self.quantity(order, line)),
            Value::Cents(self.item_price(order, line)),
            Value::Bool(gift),
            if gift { Value::Text(format!("for {}", self.pick(45 + line, order, &FIRST_NAMES))) } else { Value::Null },
            Value::Micros(OPENED + order as i64 * TICK),
        ]
    }
}

/// A price from 0.99 to 499.99, small ones more often.
fn price_of(bits: u64) -> i64 {
    let share = (bits % 1000) as i64;
    99 + share * share / 2000 * 100
}

fn text(chars: u32) -> DataType {
    DataType::String { chars: Some(chars) }
}

fn column(name: &str, data_type: DataType, source_type: &str) -> Column {
    Column { source_type: source_type.into(), ..Column::new(name, data_type).not_null() }
}

fn nullable(column: Column) -> Column {
    Column { nullable: true, ..column }
}

fn decimal() -> DataType {
    DataType::Decimal { precision: 12, scale: 2 }
}

fn channel() -> Column {
    Column { default: Some(DefaultValue::Literal(CHANNELS[0].into())), ..column("channel", text(16), "varchar(16)") }
}

fn customer_columns() -> Vec<Column> {
    vec![
        column("id", DataType::Int64, "bigint"),
        column("name", text(60), "varchar(60)"),
        column("email", text(120), "varchar(120)"),
        column("country", text(2), "char(2)"),
        nullable(column("birthday", DataType::Date, "date")),
        column("regular", DataType::Boolean, "boolean"),
        column("balance", decimal(), "decimal(12,2)"),
        column("created_at", DataType::Timestamp { digits: 6 }, "timestamp(6)"),
    ]
}

fn product_columns() -> Vec<Column> {
    vec![
        column("id", DataType::Int32, "int"),
        column("sku", text(20), "varchar(20)"),
        column("title", text(80), "varchar(80)"),
        column("price", decimal(), "decimal(12,2)"),
        column("weight", DataType::Float64, "double"),
        column("shelf", DataType::UInt8, "tinyint unsigned"),
        nullable(column("attributes", DataType::Json, "json")),
        column("priced_at", DataType::Timestamp { digits: 6 }, "timestamp(6)"),
    ]
}

fn order_columns(altered: bool) -> Vec<Column> {
    let mut columns = vec![
        column("id", DataType::Int64, "bigint"),
        column("customer_id", DataType::Int64, "bigint"),
        column("status", text(10), "varchar(10)"),
        column("total", decimal(), "decimal(12,2)"),
        column("items", DataType::Int16, "smallint"),
        nullable(column("note", DataType::TEXT, "text")),
        column("placed_at", DataType::DateTime { digits: 3 }, "datetime(3)"),
        column("updated_at", DataType::Timestamp { digits: 6 }, "timestamp(6)"),
    ];
    if altered {
        columns.insert(3, channel());
    }
    columns
}

fn item_columns() -> Vec<Column> {
    vec![
        column("order_id", DataType::Int64, "bigint"),
        column("line", DataType::Int16, "smallint"),
        column("product_id", DataType::Int32, "int"),
        column("quantity", DataType::Int16, "smallint"),
        column("price", decimal(), "decimal(12,2)"),
        column("gift", DataType::Boolean, "boolean"),
        nullable(column("remark", DataType::TEXT, "text")),
        column("added_at", DataType::Timestamp { digits: 6 }, "timestamp(6)"),
    ]
}
