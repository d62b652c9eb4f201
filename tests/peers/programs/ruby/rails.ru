# frozen_string_literal: true

# A target program: Rails without views, calling by Net::HTTP or Faraday.
# For `puma rails.ru`; GET /m/<shape>/<client>/<n> calls CALLED/n/<n>.
require 'action_controller/railtie'
require 'faraday'
require 'net/http'

# The calls: two where the shape is so.
class MatrixController < ActionController::API
  CALLED = URI(ENV.fetch('CALLED'))

  def ready
    render plain: "ready\n"
  end

  def answer
    path = "/n/#{params[:n]}"
    (params[:shape] == 'two' ? 2 : 1).times { fetch(path) }
    render plain: "n=#{params[:n]}\n"
  end

  private

  def fetch(path)
    if params[:client] == 'faraday'
      Faraday.get(URI.join(CALLED, path)).body
    else
      Net::HTTP.get(CALLED.host, path, CALLED.port)
    end
  end
end

# The application.
class Matrix < Rails::Application
  config.api_only = true
  config.eager_load = true
  config.hosts.clear
  config.logger = Logger.new(File::NULL)
  config.secret_key_base = 'of a test'
  routes.append do
    get 'ready', to: 'matrix#ready'
    get 'm/:shape/:client/:n', to: 'matrix#answer'
  end
end

Matrix.initialize!
run Matrix
