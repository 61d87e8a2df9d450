# Rails in one file: ruby rails_app.rb PORT development|production [api]
ENV['RAILS_ENV'] = ARGV[1]
require 'action_controller/railtie'
require 'rack/handler/webrick'
require 'tmpdir'

class Shop < Rails::Application
  config.root = __dir__
  config.eager_load = false
  config.consider_all_requests_local = ARGV[1] == 'development'
  config.api_only = ARGV.include?('api')
  config.debug_exception_response_format = :api if ARGV.include?('api')
  config.secret_key_base = 'not a secret' * 6
  config.logger = Logger.new(File::NULL)
  config.hosts.clear
  # The file that `rails new` writes.
  config.paths['public'] = Dir.glob("#{Gem.loaded_specs['railties'].full_gem_path}/lib/rails/generators/rails/app/templates/public").first
  routes.append do
    get '/boom', to: 'orders#boom'
    get '/template', to: 'orders#template'
  end
end

class OrdersController < (ARGV.include?('api') ? ActionController::API : ActionController::Base)
  def boom
    render plain: price('pen')
  end

  def template
    render inline: '<h1>Orders</h1><%= order.total %>'
  end

  private

  def price(article)
    { 'book' => 12 }.fetch(article)
  end
end

Shop.initialize!
Rack::Handler::WEBrick.run(Shop, Host: '127.0.0.1', Port: ARGV[0].to_i, AccessLog: [], Logger: WEBrick::Log.new(File::NULL))
