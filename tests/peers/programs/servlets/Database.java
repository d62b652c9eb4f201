import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.IOException;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;

/** PostgreSQL by JDBC, behind HikariCP's pool; fewer connections than requests. */
final class Database {
    private static final int POOLED = 8;
    private static final HikariDataSource POOL = pool();

    private static HikariDataSource pool() {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl("jdbc:postgresql://" + System.getenv("POSTGRES") + "/postgres");
        config.setUsername("postgres");
        config.setMaximumPoolSize(POOLED);
        return new HikariDataSource(config);
    }

    static void ask(String text) throws IOException {
        try (Connection connection = POOL.getConnection();
                PreparedStatement query = connection.prepareStatement("SELECT ?::text")) {
            query.setString(1, text);
            try (ResultSet found = query.executeQuery()) {
                if (!found.next() || !text.equals(found.getString(1))) {
                    throw new IOException("the database answered something else");
                }
            }
        } catch (SQLException error) {
            throw new IOException(error);
        }
    }

    private Database() {}
}
