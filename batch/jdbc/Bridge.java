package prediction.batch;

import java.io.IOException;
import java.io.InputStream;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.RoundingMode;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.sql.Date;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.Arrays;
import java.util.Calendar;
import java.util.TimeZone;

/** Rows of a ResultSet as one array per column, and such arrays as batches of a PreparedStatement. */
public final class Bridge {
    // Kinds of columns, as batch/jdbc/columns.py numbers them.
    static final int BOOL = 0, INT = 1, LONG = 2, FLOAT = 3, DOUBLE = 4, DATE = 5, TIME = 6, INSTANT = 7, DECIMAL = 8, TEXT = 9;
    static final int[] SQL_TYPES = {
        Types.BOOLEAN, Types.INTEGER, Types.BIGINT, Types.REAL, Types.DOUBLE, Types.DATE, Types.TIMESTAMP,
        Types.TIMESTAMP_WITH_TIMEZONE, Types.DECIMAL, Types.VARCHAR
    };

    private Bridge() {}

    /** For every column: SQL type, precision, scale, 1 if signed. */
    public static int[][] typesOf(ResultSetMetaData about) throws SQLException {
        int[][] types = new int[about.getColumnCount()][];
        for (int c = 0; c < types.length; c++)
            types[c] = new int[] {
                about.getColumnType(c + 1), about.getPrecision(c + 1), about.getScale(c + 1), about.isSigned(c + 1) ? 1 : 0
            };
        return types;
    }

    /** For every column: its name, and its database's name of its type. */
    public static String[][] namesOf(ResultSetMetaData about) throws SQLException {
        String[][] names = new String[about.getColumnCount()][];
        for (int c = 0; c < names.length; c++)
            names[c] = new String[] {about.getColumnLabel(c + 1), about.getColumnTypeName(c + 1)};
        return names;
    }

    static long micros(LocalDateTime time) {
        return Math.addExact(Math.multiplyExact(time.toEpochSecond(ZoneOffset.UTC), 1_000_000L), time.getNano() / 1000);
    }

    static long micros(Timestamp time) {
        return Math.addExact(Math.multiplyExact(Math.floorDiv(time.getTime(), 1000L), 1_000_000L), time.getNanos() / 1000);
    }

    /** Blocks of rows, as one array per column. */
    public abstract static class Blocks {
        final int[] kinds;
        private final String[] names;
        final int most;
        final int budget;
        private int[] used;
        long bytes;
        /** By column: values; of text the UTF-8 bytes. */
        public Object[] data;
        /** By column: 1 where there is a value. */
        public byte[][] valid;
        /** By column of text: where each value begins and the last one ends. */
        public int[][] offsets;

        /** At most so many rows, and hardly more than so many bytes. */
        Blocks(int[] kinds, String[] names, int most, int budget) {
            this.kinds = kinds;
            this.names = names;
            this.most = most;
            this.budget = budget;
        }

        /** How many rows there are now; 0 at the end. */
        public abstract int next() throws SQLException;

        final void begin() {
            int n = kinds.length;
            data = new Object[n];
            valid = new byte[n][most];
            offsets = new int[n][];
            used = new int[n];
            bytes = 0;
            for (int c = 0; c < n; c++) allocate(c);
        }

        private void allocate(int c) {
            switch (kinds[c]) {
                case BOOL: data[c] = new byte[most]; break;
                case INT: case DATE: data[c] = new int[most]; break;
                case LONG: case TIME: case INSTANT: data[c] = new long[most]; break;
                case FLOAT: data[c] = new float[most]; break;
                case DOUBLE: data[c] = new double[most]; break;
                default: data[c] = new byte[most * 8]; offsets[c] = new int[most + 1];
            }
        }

        /** The array to put a text of so many bytes into, from `used` on. */
        private byte[] roomFor(int c, int length) {
            byte[] taken = (byte[]) data[c];
            int end = Math.addExact(used[c], length);
            if (end > taken.length) data[c] = taken = Arrays.copyOf(taken, (int) Math.max(Math.min(taken.length * 2L, 1 << 30), end));
            bytes += length;
            return taken;
        }

        final void put(int c, int r, byte[] from, int start, int length) {
            System.arraycopy(from, start, roomFor(c, length), used[c], length);
            used[c] += length;
            offsets[c][r + 1] = used[c];
        }

        final void putNull(int c, int r) {
            if (offsets[c] != null) offsets[c][r + 1] = used[c];
        }

        final SQLException outOfRange(int c) {
            boolean isTime = kinds[c] == DATE || kinds[c] == TIME || kinds[c] == INSTANT;
            return new SQLException(names[c] + ": out of range", isTime ? "22008" : "22003");
        }
    }

    /** Takes them from a cursor. */
    public static final class Reader extends Blocks {
        private final ResultSet rows;
        private final boolean adapts;
        private final boolean[] legacy;
        private final Calendar utc = Calendar.getInstance(TimeZone.getTimeZone("UTC"));
        private int fetched;

        /** adapts: how many rows the driver fetches may change. */
        public Reader(ResultSet rows, int[] kinds, String[] names, int most, int budget, boolean adapts) {
            super(kinds, names, most, budget);
            this.rows = rows;
            this.adapts = adapts;
            this.legacy = new boolean[kinds.length];
        }

        @Override
        public int next() throws SQLException {
            begin();
            int n = kinds.length;
            int r = 0;
            while (r < most && bytes < budget && rows.next()) {
                for (int c = 0; c < n; c++) {
                    try {
                        if (read(c, r)) valid[c][r] = 1;
                    } catch (ArithmeticException | java.time.DateTimeException e) {
                        throw outOfRange(c);
                    }
                }
                bytes += 8L * n;
                r++;
                if (r == 64 || r == 512 || r == most) adapt(r);
            }
            return r;
        }

        /** Large rows are fetched few at a time. */
        private void adapt(int r) throws SQLException {
            int wanted = (int) Math.max(16, Math.min(most, budget / Math.max(1, bytes / r)));
            if (adapts && (wanted > 2 * fetched || wanted < fetched / 2)) {
                rows.setFetchSize(wanted);
                fetched = wanted;
            }
        }

        private boolean read(int c, int r) throws SQLException {
            int i = c + 1;
            switch (kinds[c]) {
                case BOOL: {
                    boolean v = rows.getBoolean(i);
                    ((byte[]) data[c])[r] = (byte) (v ? 1 : 0);
                    return v || !rows.wasNull();
                }
                case INT: {
                    int v = rows.getInt(i);
                    ((int[]) data[c])[r] = v;
                    return v != 0 || !rows.wasNull();
                }
                case LONG: {
                    long v = rows.getLong(i);
                    ((long[]) data[c])[r] = v;
                    return v != 0 || !rows.wasNull();
                }
                case FLOAT: {
                    float v = rows.getFloat(i);
                    ((float[]) data[c])[r] = v;
                    return v != 0 || !rows.wasNull();
                }
                case DOUBLE: {
                    double v = rows.getDouble(i);
                    ((double[]) data[c])[r] = v;
                    return v != 0 || !rows.wasNull();
                }
                case DATE: return readDate(c, r);
                case TIME: case INSTANT: return readTime(c, r);
                case DECIMAL: return put(c, r, plain(rows.getString(i)));
                default: return put(c, r, rows.getString(i));
            }
        }

        private boolean readDate(int c, int r) throws SQLException {
            LocalDate day = null;
            if (!legacy[c]) {
                try {
                    day = rows.getObject(c + 1, LocalDate.class);
                } catch (SQLException | AbstractMethodError e) {
                    legacy[c] = true;
                }
            }
            if (legacy[c]) {
                Date old = rows.getDate(c + 1);
                day = old == null ? null : old.toLocalDate();
            }
            if (day == null) return false;
            ((int[]) data[c])[r] = Math.toIntExact(day.toEpochDay());
            return true;
        }

        private boolean readTime(int c, int r) throws SQLException {
            long value = 0;
            boolean given = false;
            if (!legacy[c]) {
                try {
                    if (kinds[c] == TIME) {
                        LocalDateTime time = rows.getObject(c + 1, LocalDateTime.class);
                        given = time != null;
                        if (given) value = micros(time);
                    } else {
                        OffsetDateTime time = rows.getObject(c + 1, OffsetDateTime.class);
                        given = time != null;
                        if (given) value = micros(time.withOffsetSameInstant(ZoneOffset.UTC).toLocalDateTime());
                    }
                } catch (SQLException | AbstractMethodError e) {
                    legacy[c] = true;
                }
            }
            if (legacy[c]) {
                Timestamp old = rows.getTimestamp(c + 1, utc);
                given = old != null;
                if (given) value = micros(old);
            }
            ((long[]) data[c])[r] = value;
            return given;
        }

        private static String plain(String number) {
            if (number == null || (number.indexOf('E') < 0 && number.indexOf('e') < 0)) return number;
            return new BigDecimal(number).toPlainString();
        }

        private boolean put(int c, int r, String text) {
            if (text == null) {
                putNull(c, r);
                return false;
            }
            byte[] encoded = text.getBytes(StandardCharsets.UTF_8);
            put(c, r, encoded, 0, encoded.length);
            return true;
        }
    }

    /**
     * Takes them from PostgreSQL's COPY TO STDOUT in its binary format: several times faster than its cursors, because the
     * server sends rows while they are read. The format: its manual, COPY, "Binary Format", and the send functions of types.
     */
    public static final class CopyReader extends Blocks {
        private static final VarHandle INTS = MethodHandles.byteArrayViewVarHandle(int[].class, ByteOrder.BIG_ENDIAN);
        private static final VarHandle LONGS = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);
        private static final long EPOCH_MICROS = 946_684_800_000_000L;
        private static final int EPOCH_DAYS = 10_957;
        private static final int SIGNATURE = 11;
        private final InputStream in;
        private byte[] buffer = new byte[1 << 16];
        private int at;
        private int end;
        private boolean ended;

        public CopyReader(InputStream in, int[] kinds, String[] names, int most, int budget) {
            super(kinds, names, most, budget);
            this.in = in;
        }

        @Override
        public int next() throws SQLException {
            begin();
            try {
                int r = 0;
                while (!ended && r < most && bytes < budget && row(r)) r++;
                return r;
            } catch (IOException e) {
                throw asSql(e);
            }
        }

        /** Wait for the first row, and pass over the header, which comes with it; once, before `next`. */
        public void skipHeader() throws SQLException {
            try {
                need(SIGNATURE + 8);
                int extension = (int) INTS.get(buffer, SIGNATURE + 4);
                at = SIGNATURE + 8;
                need(extension);
                at += extension;
            } catch (IOException e) {
                throw asSql(e);
            }
        }

        private static SQLException asSql(IOException e) {
            return e.getCause() instanceof SQLException ? (SQLException) e.getCause() : new SQLException(e.getMessage(), "08006");
        }

        private boolean row(int r) throws IOException, SQLException {
            need(2);
            int n = (buffer[at] << 8) | (buffer[at + 1] & 0xff);
            at += 2;
            if (n < 0) {
                if (in.read() >= 0) throw new IOException("the copy goes on behind its end");
                ended = true;
                return false;
            }
            if (n != kinds.length) throw new IOException("the copy has another number of columns");
            for (int c = 0; c < n; c++) {
                need(4);
                int length = (int) INTS.get(buffer, at);
                at += 4;
                if (length < 0) {
                    putNull(c, r);
                } else {
                    need(length);
                    try {
                        value(c, r, length);
                    } catch (ArithmeticException e) {
                        throw outOfRange(c);
                    }
                    valid[c][r] = 1;
                    at += length;
                }
            }
            bytes += 8L * n;
            return true;
        }

        private void value(int c, int r, int length) throws IOException {
            switch (kinds[c]) {
                case BOOL: ((byte[]) data[c])[r] = buffer[at]; break;
                case INT: ((int[]) data[c])[r] = length == 2 ? (buffer[at] << 8) | (buffer[at + 1] & 0xff) : intAt(); break;
                case LONG: ((long[]) data[c])[r] = longAt(); break;
                case FLOAT: ((float[]) data[c])[r] = Float.intBitsToFloat(intAt()); break;
                case DOUBLE: ((double[]) data[c])[r] = Double.longBitsToDouble(longAt()); break;
                case DATE: ((int[]) data[c])[r] = Math.addExact(finite(intAt()), EPOCH_DAYS); break;
                case TIME: case INSTANT: ((long[]) data[c])[r] = Math.addExact(finite(longAt()), EPOCH_MICROS); break;
                case DECIMAL: {
                    byte[] text = decimal().getBytes(StandardCharsets.US_ASCII);
                    put(c, r, text, 0, text.length);
                    break;
                }
                default: put(c, r, buffer, at, length);
            }
        }

        /** The least and the greatest number stand for infinity. */
        private static int finite(int days) {
            if (days == Integer.MIN_VALUE || days == Integer.MAX_VALUE) throw new ArithmeticException();
            return days;
        }

        private static long finite(long micros) {
            if (micros == Long.MIN_VALUE || micros == Long.MAX_VALUE) throw new ArithmeticException();
            return micros;
        }

        /** Groups of four digits, of which the first counts 10000 to the power of the weight. */
        private String decimal() {
            int groups = shortAt(0) & 0xffff, weight = shortAt(2), sign = shortAt(4), scale = shortAt(6);
            if (sign < 0) return sign == -0x4000 ? "NaN" : sign == -0x3000 ? "Infinity" : "-Infinity";
            StringBuilder digits = new StringBuilder(4 * groups);
            for (int g = 0; g < groups; g++) {
                int group = shortAt(8 + 2 * g);
                for (int unit = 1000; unit > 0; unit /= 10) digits.append((char) ('0' + group / unit % 10));
            }
            BigInteger whole = groups == 0 ? BigInteger.ZERO : new BigInteger(digits.toString());
            BigDecimal value = new BigDecimal(whole, 4 * (groups - 1 - weight));
            return (sign == 0 ? value : value.negate()).setScale(scale, RoundingMode.UNNECESSARY).toPlainString();
        }

        private int intAt() {
            return (int) INTS.get(buffer, at);
        }

        private long longAt() {
            return (long) LONGS.get(buffer, at);
        }

        private int shortAt(int place) {
            return (buffer[at + place] << 8) | (buffer[at + place + 1] & 0xff);
        }

        /** Have so many bytes from `at` on in the buffer. */
        private void need(int count) throws IOException {
            if (end - at >= count) return;
            if (count > buffer.length) buffer = Arrays.copyOfRange(buffer, at, at + Math.max(count, buffer.length));
            else System.arraycopy(buffer, at, buffer, 0, end - at);
            end -= at;
            at = 0;
            while (end < count) {
                int read = in.read(buffer, end, buffer.length - end);
                if (read < 0) throw new IOException("the copy ends too early");
                end += read;
            }
        }
    }

    /** Columns of rows that are to be written; text as in Reader. */
    public static final class Block {
        private final int[] kinds;
        private final Object[] data;
        private final byte[][] valid;
        private final int[][] offsets;
        /** The driver does not take the newer classes of dates and times; drivers say so in any way. */
        private boolean legacy;

        public Block(int[] kinds, Object[] data, byte[][] valid, int[][] offsets) {
            this.kinds = kinds;
            this.data = data;
            this.valid = valid;
            this.offsets = offsets;
        }

        /** Executes a statement whose parameters are these columns for the rows given; counts of changed rows. */
        public int[] execute(PreparedStatement to, int[] columns, int[] rows) throws SQLException {
            to.clearBatch();
            for (int r : rows) {
                for (int p = 0; p < columns.length; p++) bind(to, p + 1, columns[p], r);
                to.addBatch();
            }
            return to.executeBatch();
        }

        private void bind(PreparedStatement to, int p, int c, int r) throws SQLException {
            if (valid[c] != null && valid[c][r] == 0) {
                to.setNull(p, SQL_TYPES[kinds[c] == INSTANT ? TIME : kinds[c]]);
                return;
            }
            switch (kinds[c]) {
                case BOOL: to.setBoolean(p, ((byte[]) data[c])[r] != 0); break;
                case INT: to.setInt(p, ((int[]) data[c])[r]); break;
                case LONG: to.setLong(p, ((long[]) data[c])[r]); break;
                case FLOAT: to.setFloat(p, ((float[]) data[c])[r]); break;
                case DOUBLE: to.setDouble(p, ((double[]) data[c])[r]); break;
                case DATE: bindDate(to, p, LocalDate.ofEpochDay(((int[]) data[c])[r])); break;
                case TIME: case INSTANT: bindTime(to, p, kinds[c], ((long[]) data[c])[r]); break;
                case DECIMAL: to.setBigDecimal(p, new BigDecimal(text(c, r))); break;
                default: to.setString(p, text(c, r));
            }
        }

        private String text(int c, int r) {
            int start = offsets[c][r];
            return new String((byte[]) data[c], start, offsets[c][r + 1] - start, StandardCharsets.UTF_8);
        }

        private void bindDate(PreparedStatement to, int p, LocalDate day) throws SQLException {
            if (!legacy) {
                try {
                    to.setObject(p, day);
                    return;
                } catch (SQLException | AbstractMethodError e) {
                    legacy = true;
                }
            }
            to.setDate(p, Date.valueOf(day));
        }

        private void bindTime(PreparedStatement to, int p, int kind, long micros) throws SQLException {
            Instant instant =
                Instant.ofEpochSecond(Math.floorDiv(micros, 1_000_000L), Math.floorMod(micros, 1_000_000L) * 1000L);
            LocalDateTime time = LocalDateTime.ofInstant(instant, ZoneOffset.UTC);
            if (!legacy) {
                try {
                    to.setObject(p, kind == TIME ? time : time.atOffset(ZoneOffset.UTC));
                    return;
                } catch (SQLException | AbstractMethodError e) {
                    legacy = true;
                }
            }
            to.setTimestamp(p, Timestamp.valueOf(time), Calendar.getInstance(TimeZone.getTimeZone("UTC")));
        }
    }
}
